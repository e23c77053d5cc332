"""Weights and features that are not finite: what a model makes of them means nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .model import Whisper


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity; takes no memory where it does not."""
    # The sum of finite numbers is finite, but for sums beyond the type's range.
    return bool(tensor.detach().sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def bad_parameter(model: Whisper) -> str | None:
    """The name of the first entry of the state_dict that is not finite."""
    for name, value in model.state_dict().items():  # a quantized layer may keep other things in it
        if isinstance(value, Tensor) and value.is_floating_point() and not is_finite(value):
            return name
    return None


def check(model: Whisper, features: Tensor, error: Exception | None = None) -> None:
    """Blames the model or its input, if one is to blame, for a decode that gave NaN.

    Args:
        features: the audio features that were decoded.
        error: how the decode ended.

    Raises:
        ValueError: one of them is not finite.
    """
    if (name := bad_parameter(model)) is not None:
        raise ValueError(f"the model cannot decode: its {name} holds NaN or infinity") from error
    if not is_finite(features):
        half = features.dtype == torch.float16
        hint = ", or float16 is too narrow for this model: try fp16=False" if half else ""
        raise ValueError(f"the audio features hold NaN or infinity: so does the log-mel{hint}") from error
