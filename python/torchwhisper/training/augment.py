"""SpecAugment: stripes of a spectrogram are hidden, so that the model does not rely on any of them."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class SpecAugment:
    """Numbers and greatest widths of the stripes; the widths are drawn evenly from 0 on.

    The defaults are the LibriSpeech policy of Park et al., 2019. time_share bounds a stripe by its share of
    the frames with sound in them.
    """

    frequency_masks: int = 2
    frequency_width: int = 27
    time_masks: int = 2
    time_width: int = 100
    time_share: float = 0.2

    def apply(self, mel: Tensor, n_frames: int, random: np.random.Generator) -> Tensor:
        """A copy of `mel` [n_mels, frames] with stripes at its mean; time is masked up to `n_frames`."""
        mel = mel.clone()
        hidden = float(mel.mean())
        for _ in range(self.frequency_masks):
            start, width = _stripe(mel.shape[0], self.frequency_width, random)
            mel[start : start + width] = hidden
        for _ in range(self.time_masks):
            widest = min(self.time_width, int(self.time_share * n_frames))
            start, width = _stripe(n_frames, widest, random)
            mel[:, start : start + width] = hidden
        return mel


def _stripe(size: int, widest: int, random: np.random.Generator) -> tuple[int, int]:
    width = int(random.integers(0, min(widest, size) + 1))
    return int(random.integers(0, size - width + 1)), width
