"""Compute types: what a model computes in, whatever its parameters are stored in (`load_model`)."""

from typing import Any

import torch

from . import _C

NAMES = ("default", "float32", "float16", "bfloat16", "int8")

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check(name: str, device: torch.device) -> None:
    """Raises ValueError where `name` is no compute type, or none that the device computes fast."""
    if name not in NAMES:
        raise ValueError(f"compute_type is {name!r}, expected one of {', '.join(NAMES)}")
    given = f"compute_type is {name!r} and the device is {device.type}, but"
    if name == "int8" and device.type != "cpu":
        raise ValueError(f"{given} int8 is computed by a CPU only: take float16 or bfloat16")
    if name == "default" or device.type != "cpu":
        return
    if name == "float16":
        others = [
            other for other in ("int8", "bfloat16", "float32") if _C.compute_type_obstacle(other) is None
        ]
        raise ValueError(f"{given} a CPU does not compute float16 fast: take {' or '.join(others)}")
    if (obstacle := _C.compute_type_obstacle(name)) is not None:
        raise ValueError(f"{given} {obstacle}")


def of(model: Any) -> str:
    """The compute type that `model` was loaded with."""
    name: str = getattr(model, "compute_type", "default")
    return name


def dtype_of_parameters(name: str, device: torch.device) -> torch.dtype | None:
    """What the parameters are converted to; None for what the checkpoint has."""
    return None if device.type == "cpu" else _DTYPES[name]


def dtype_of_activations(model: Any, half: bool) -> torch.dtype:
    """The dtype of spectrograms and audio features; `half` decides where the compute type leaves it open."""
    name = of(model)
    if name == "default":
        return torch.float16 if half else torch.float32
    return torch.float32 if model.device.type == "cpu" else _DTYPES[name]


def packed(model: Any, dtype: torch.dtype, device: torch.device) -> str:
    """What the engine packs the weights in for activations of `dtype`. Raises as `check` does."""
    name = of(model)
    check(name, device)
    reduced = device.type == "cpu" and dtype == torch.float32 and name in ("bfloat16", "int8")
    return name if reduced else "float32"
