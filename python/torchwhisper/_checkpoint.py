"""Reads Whisper checkpoints ({"dims", "model_state_dict"}) and builds models from them.

Everything is checked before memory is allocated for the model, so that a corrupt or foreign file ends
in one sentence.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import _plain_tree
from .model import ModelDimensions, Whisper

# Far above every model there is; they only stop absurd sizes before anything is allocated.
_LIMITS = {"n_vocab": 1 << 20, "n_audio_ctx": 1 << 20, "n_text_ctx": 1 << 20}
_LIMITS |= {"n_audio_layer": 1 << 10, "n_text_layer": 1 << 10}
_DEFAULT_LIMIT = 1 << 16


def read(source: str | bytes, name: str) -> dict[str, Any]:
    """Unpickle a checkpoint (tensors and plain values only) into host memory.

    source: the path of the file, or its content. name: what the caller asked for, for the messages.
    Raises RuntimeError if it is not a checkpoint {"dims": dict, "model_state_dict": dict}.
    """
    if (len(source) if isinstance(source, bytes) else os.path.getsize(source)) == 0:
        raise RuntimeError(f"Model {name} cannot be loaded: the file is empty")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        checkpoint: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch.load lets many types of exceptions out
        if "GLOBAL" in str(error):  # the pickle names a function or a class
            reason = "it holds more than tensors and plain values, and such a file is never run"
        else:
            reason = "the file is corrupt or not a PyTorch checkpoint"
        raise RuntimeError(f"Model {name} cannot be loaded: {reason}") from error
    for key in ("dims", "model_state_dict"):
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), dict):
            raise RuntimeError(f"Model {name} is not a Whisper checkpoint: it has no dictionary {key!r}")
    return cast(dict[str, Any], checkpoint)


def build(checkpoint: dict[str, Any], name: str, device: torch.device) -> Whisper:
    """The model of a checkpoint, with float32 parameters on `device`; empties the checkpoint.

    Raises RuntimeError if the dims are impossible or the tensors do not fit them.
    """
    dims = _checked_dims(checkpoint["dims"], name)
    state: dict[str, Tensor] = checkpoint["model_state_dict"]
    _check_tensors(state, _shapes(dims), name)
    with _SkipInit():
        model = Whisper(dims)
    with torch.no_grad():
        for key, parameter in model.state_dict().items():
            parameter.copy_(state.pop(key))
    return model.to(device)


def _checked_dims(given: dict[str, Any], name: str) -> ModelDimensions:
    fields = [field.name for field in dataclasses.fields(ModelDimensions)]
    problems = [f"{key} is missing" for key in fields if key not in given]
    problems += [f"{key} is unknown" for key in given if key not in fields]
    for key in fields:
        limit = _LIMITS.get(key, _DEFAULT_LIMIT)
        if key in given and (type(given[key]) is not int or not 1 <= given[key] <= limit):
            problems.append(f"{key} is {given[key]!r:.40}, expected a whole number from 1 to {limit}")
    if not problems:
        problems = list(_misfits(ModelDimensions(**given)))
    if problems:
        raise RuntimeError(f"Model {name} has impossible dims: {'; '.join(problems)}")
    return ModelDimensions(**given)


def _misfits(dims: ModelDimensions) -> Iterator[str]:
    if dims.n_mels not in (80, 128):
        yield f"n_mels is {dims.n_mels}, expected 80 or 128"
    for part in ("audio", "text"):
        state, head = getattr(dims, f"n_{part}_state"), getattr(dims, f"n_{part}_head")
        if state % head or state % 2 or state < 4:
            yield f"n_{part}_state is {state}, expected an even multiple of n_{part}_head = {head}"
    if dims.n_audio_state != dims.n_text_state:
        yield f"n_audio_state is {dims.n_audio_state}, expected n_text_state = {dims.n_text_state}"


def _check_tensors(state: dict[str, Any], shapes: dict[str, tuple[int, ...]], name: str) -> None:
    _refuse(f"Model {name} lacks", [key for key in shapes if key not in state])
    _refuse(f"Model {name} has unexpected entries:", [str(key) for key in state if key not in shapes])
    for key, shape in shapes.items():
        if (problem := _tensor_problem(state[key], shape)) is not None:
            raise RuntimeError(f"Model {name} has a bad tensor {key}: {problem}")


def _refuse(sentence: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise RuntimeError(f"{sentence} {', '.join(keys[:3])}{more}")


def _tensor_problem(value: Any, shape: tuple[int, ...]) -> str | None:
    if not isinstance(value, Tensor):
        return f"got {type(value).__name__}, expected a tensor"
    if value.layout != torch.strided or value.is_meta or not value.is_floating_point():
        return f"got {value.layout} {value.dtype} on {value.device.type}, expected dense floating point"
    if value.shape != shape:
        return f"got shape {tuple(value.shape)}, expected {shape} by the checkpoint's dims"
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "its elements overlap in memory"
    return None


def _shapes(dims: ModelDimensions) -> dict[str, tuple[int, ...]]:
    """Key and shape of everything in the state_dict of a model with these dims."""
    sizes = vars(dims)
    audio = {name: size for name, size in sizes.items() if name == "n_mels" or "audio" in name}
    text = {name: size for name, size in sizes.items() if name not in audio}
    return {
        f"{half}.{name}": shape
        for half, part in (("encoder", audio), ("decoder", text))
        for name, shape in _plain_tree.tensor_shapes(part).items()
    }


class _SkipInit(TorchFunctionMode):
    """Leaves new parameters unfilled: the checkpoint overwrites every one of them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)
