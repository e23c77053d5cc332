"""Stands where openai-whisper keeps its Triton kernels (whisper/triton_ops.py); this package needs none."""

from typing import Any

import torch
from torch import Tensor

_KERNELS = {"dtw_kernel": "dtw", "median_kernel": "median_filter"}


def median_filter_cuda(x: Tensor, filter_width: int) -> Tensor:
    """Median over windows along the last dimension of `x`, which is padded already, on any device.

    x: [..., length]. Returns [..., length - filter_width + 1].
    """
    windows = x.contiguous().unfold(-1, filter_width, 1)
    # Sorting is faster than torch.median (pytorch#51450).
    return torch.sort(windows, dim=-1).values[..., filter_width // 2]


def __getattr__(name: str) -> Any:
    if name in _KERNELS:
        raise ImportError(
            f"torchwhisper has no Triton kernel {name}: call torchwhisper.timing.{_KERNELS[name]}, "
            "which works on every device"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
