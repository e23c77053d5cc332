"""SpecAugment."""

import numpy as np
import torch

from torchwhisper.training import SpecAugment


def test_only_stripes_at_the_mean_are_new():
    mel = torch.randn(80, 300)
    before = mel.clone()
    policy = SpecAugment(frequency_masks=1, frequency_width=10, time_masks=1, time_width=20)
    seen_rows, seen_columns = set(), set()
    for seed in range(50):
        masked = policy.apply(mel, 150, np.random.default_rng(seed))
        changed = masked != mel
        assert torch.equal(mel, before)
        assert torch.all(masked[changed] == mel.mean())
        rows = changed.all(1).nonzero().flatten().tolist()
        columns = changed.all(0).nonzero().flatten().tolist()
        assert len(rows) <= 10 and len(columns) <= 20
        assert all(np.diff(rows) == 1) and all(np.diff(columns) == 1)
        assert not columns or columns[-1] < 150
        inside = torch.zeros_like(changed)
        inside[rows], inside[:, columns] = True, True
        assert torch.equal(changed, inside)
        seen_rows.update(rows)
        seen_columns.update(columns)
    assert len(seen_rows) > 60 and len(seen_columns) > 100


def test_the_same_draws_give_the_same_stripes():
    mel = torch.randn(80, 300)
    first, second, other = (SpecAugment().apply(mel, 300, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
