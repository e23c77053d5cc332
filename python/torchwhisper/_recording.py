"""A recording in windows of 30 seconds, as a model sees them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import decoding
from .audio import HOP_LENGTH, N_FRAMES, SAMPLE_RATE

if TYPE_CHECKING:
    from .model import Whisper


class Recording:
    """A recording in windows for one model. A window is encoded once, whoever asks for it."""

    def __init__(
        self, model: "Whisper", mel: Tensor, dtype: torch.dtype, pad_or_trim: Callable[..., Any]
    ) -> None:
        """A recording from its log-mel.

        mel: [n_mels, frames], with N_FRAMES after the content. dtype: what to compute in.
        pad_or_trim: `audio.pad_or_trim`, or what a program has put in its place.
        """
        self.model = model
        self.mel = mel
        self.dtype = dtype
        self.pad_or_trim = pad_or_trim
        self.content_frames: int = mel.shape[-1] - N_FRAMES
        self.duration = self.content_frames * HOP_LENGTH / SAMPLE_RATE
        self._takes_features = takes_features(model)
        self._encoded: tuple[int, int, Tensor] | None = None

    def mel_window(self, start: int, size: int) -> Tensor:
        """Frames [start, start + size), followed by zeros: not silence, but what the models are used with."""
        return self._on_device(self.pad_or_trim(self.mel[:, start : start + size], N_FRAMES))

    def window(self, start: int, size: int) -> Tensor:
        """The audio features of `mel_window` if the model takes them in its place, else the log-mel."""
        if not self._takes_features:
            return self.mel_window(start, size)
        if self._encoded is None or self._encoded[:2] != (start, size):
            with torch.no_grad():
                features = self.model.embed_audio(self.mel_window(start, size).unsqueeze(0))
            self._encoded = (start, size, features[0])
        return self._encoded[2]

    def again(self) -> "Recording":
        """The same recording, for somebody who looks at other windows at the same time."""
        return Recording(self.model, self.mel, self.dtype, self.pad_or_trim)

    def _on_device(self, mel: Tensor) -> Tensor:
        return mel.to(self.model.device).to(self.dtype)


def takes_features(model: "Whisper") -> bool:
    """Whether the model's methods are ours, which take audio features in place of a log-mel.

    A method from elsewhere may know of no features, and hooks in the encoder may count on its every run.
    """
    from .model import Whisper

    stock = (
        isinstance(model, Whisper) and not {"decode", "detect_language", "embed_audio"} & vars(model).keys()
    )
    return (
        stock
        and type(model).decode is decoding.decode
        and type(model).detect_language is decoding.detect_language
        and getattr(type(model).embed_audio, "__module__", None) == Whisper.__module__
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.encoder.modules())
    )
