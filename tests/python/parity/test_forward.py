"""Encoder output and logits of random models of the official dimensions, against the reference."""

import functools
from typing import NamedTuple

import pytest
import torch
from random_models import NAMES, dimensions, random_mel, random_pair

from torchwhisper import _engine


class Reference(NamedTuple):
    mel: torch.Tensor
    tokens: list[torch.Tensor]
    features: torch.Tensor
    logits: list[torch.Tensor]


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def reference(name: str) -> Reference:
    model = random_pair(name)[0]
    mel, generator = random_mel(name, 1), torch.Generator().manual_seed(2)
    lengths = (1, 7, 448) if name == "tiny" else (1, 60)
    tokens = [torch.randint(0, dimensions(name)["n_vocab"], (1, n), generator=generator) for n in lengths]
    features = model.encoder(mel)
    return Reference(mel, tokens, features, [model.logits(t, features) for t in tokens])


def assert_near(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 2e-6 * wanted.abs().max()


def compare(model: torch.nn.Module, wanted: Reference) -> None:
    assert_near(model.embed_audio(wanted.mel), wanted.features)
    for tokens, logits in zip(wanted.tokens, wanted.logits, strict=True):
        assert_near(model.logits(tokens, wanted.features), logits)


# By name first, so that each pair is made once.
CASES = [(name, "engine") for name in NAMES] + [(name, "session") for name in NAMES] + [("tiny", "python")]


@pytest.mark.parametrize(("name", "path"), sorted(CASES))
@torch.no_grad()
def test_forward(name, path):
    """By direct calls, within a session, where the weights are packed, and in Python."""
    model = random_pair(name)[1]
    with _engine.disable() if path == "python" else _engine.require():
        if path == "session":
            with _engine.session(model, torch.float32):
                compare(model, reference(name))
        else:
            compare(model, reference(name))


@torch.no_grad()
def test_batch():
    theirs, model = random_pair("tiny")
    mel = random_mel("tiny", 3)
    tokens = torch.randint(0, 50000, (3, 5), generator=torch.Generator().manual_seed(4))
    features = torch.cat([theirs.encoder(window[None]) for window in mel])
    logits = torch.cat([theirs.logits(t[None], f[None]) for t, f in zip(tokens, features, strict=True)])
    with _engine.require():
        assert_near(model.encoder(mel), features)
        assert_near(model.logits(tokens, features), logits)
        assert_near(model(mel, tokens), logits)
        with _engine.session(model, torch.float32):
            assert_near(model.encoder(mel), features)
            assert_near(model.logits(tokens, features), logits)
