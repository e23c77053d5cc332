"""Reads Whisper checkpoints and builds models from them.

Everything is checked before memory is allocated for the model, so that a corrupt or foreign file ends
in one sentence. `_hugging_face` reads the other layout of the same tensors.
"""

import dataclasses
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import _compute_type, _finite, _foreign, _plain_tree
from .model import ModelDimensions, Whisper

# Far above every model there is; they only stop absurd sizes before anything is allocated.
_LIMITS = {"n_vocab": 1 << 20, "n_audio_ctx": 1 << 20, "n_text_ctx": 1 << 20}
_LIMITS |= {"n_audio_layer": 1 << 10, "n_text_layer": 1 << 10}
_DEFAULT_LIMIT = 1 << 16
# Floating-point weights compress by less than two; torch itself does not compress at all.
_GREATEST_COMPRESSION = 8


@dataclasses.dataclass
class Checkpoint:
    """What a file holds, unchecked: sizes and tensors.

    state: tensors under the file's names. key: gives the file's name of a tensor for ours.
    heads: the [layer, head] pairs of the alignment heads. dump: they, as `set_alignment_heads` takes them.
    """

    dims: dict[str, Any]
    state: dict[str, Any]
    heads: Any = None
    dump: bytes | None = None
    key: Callable[[str], str] = str


def read(source: str | bytes, name: str, mapped: bool = False) -> Checkpoint:
    """The content of an OpenAI checkpoint, with its tensors in host memory.

    source: the path of the file, or its content. name: what the caller asked for, for the messages.
    mapped: leave the tensors in the file and let the system read what is looked at, where that is possible.
    Raises RuntimeError if it is not a checkpoint {"dims": dict, "model_state_dict": dict}.
    """
    content = unpickle(source, name, mapped)
    for key in ("dims", "model_state_dict"):
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            raise RuntimeError(
                f"Model {name} is not a Whisper checkpoint: it has no dictionary {key!r}{_hint(content)}"
            )
    return Checkpoint(content["dims"], content["model_state_dict"], content.get("alignment_heads"))


def _hint(content: Any) -> str:
    names = list(map(str, content)) if isinstance(content, dict) else []
    if any("embed_positions" in name for name in names):
        return "; its tensors have Hugging Face names: give the folder that holds it and config.json"
    if "encoder.positional_embedding" in names:
        return "; it is a state_dict alone: save_model() writes what is needed"
    return ""


def unpickle(source: str | bytes, name: str, mapped: bool = False) -> Any:
    """What torch.save() has written: tensors, in host memory, and plain values only.

    Raises RuntimeError for everything else.
    """
    stored = _check_archive(source, name)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        mmap = mapped and stored and not isinstance(source, bytes)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch.load lets many types of exceptions out
        if "GLOBAL" in str(error):  # the pickle names a function or a class
            reason = (
                "it holds more than tensors and plain values, and such a file is never run; "
                "for a model that torch.save() wrote whole, load it where it is trusted and use save_model()"
            )
        else:
            reason = "the file is corrupt or not a PyTorch checkpoint"
        raise RuntimeError(f"Model {name} cannot be loaded: {reason}") from error


def _check_archive(source: str | bytes, name: str) -> bool:
    """Refuses what would fill the memory, and what can be told from its first bytes.

    Returns whether it is an archive that holds its tensors as they are in memory.
    """
    reason, stored = "", False
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        head = file.read(64)
        size = file.seek(0, os.SEEK_END)
        if not head:
            reason = "the file is empty"
        elif foreign := _foreign.kind_of_file(head):
            reason = foreign
        elif zipfile.is_zipfile(file):
            try:
                entries = zipfile.ZipFile(file).infolist()
                unpacked = sum(entry.file_size for entry in entries)
                stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            except Exception:
                unpacked = 0  # torch will say what is wrong
            if unpacked > _GREATEST_COMPRESSION * size:
                reason = f"its {size:,} bytes would unpack to {unpacked:,}"
    if reason:
        raise RuntimeError(f"Model {name} cannot be loaded: {reason}")
    return stored


def build(
    checkpoint: Checkpoint,
    name: str,
    device: torch.device,
    compute_type: str = "default",
    make: Callable[[ModelDimensions], Whisper] = Whisper,
) -> Whisper:
    """The model of a checkpoint on `device`; empties the checkpoint.

    The parameters are float32 copies; with a compute type the checkpoint's own tensors on a CPU, elsewhere
    copies of that type. make: the model's class.

    Raises RuntimeError if the dims are impossible or the tensors do not fit them.
    """
    dims = _checked_dims(checkpoint.dims, name)
    shapes = {checkpoint.key(key): shape for key, shape in tensor_shapes(dims).items()}
    check_tensors(checkpoint.state, shapes, name)
    with _SkipInit():
        model = make(dims)
    if compute_type == "default":
        with torch.no_grad():
            for key, parameter in model.state_dict().items():
                parameter.copy_(checkpoint.state.pop(checkpoint.key(key)))
    else:
        _take_over(model, checkpoint, device, compute_type)
    # Tensors that were left in the file stay unread until the engine packs them.
    if compute_type == "default" or device.type != "cpu":
        _warn_unless_finite(model, name)
    if checkpoint.dump is not None:
        model.set_alignment_heads(checkpoint.dump)
    elif checkpoint.heads is not None:
        _set_heads(model, checkpoint.heads, name)
    return model.to(device)


def _take_over(model: Whisper, checkpoint: Checkpoint, device: torch.device, compute_type: str) -> None:
    dtype = _compute_type.dtype_of_parameters(compute_type, device)
    model.eval().requires_grad_(False)
    tensors = {key: checkpoint.state.pop(checkpoint.key(key)) for key in model.state_dict()}
    for key, tensor in tensors.items():
        tensors[key] = tensor.to(device, dtype).contiguous()
    model.load_state_dict(tensors, assign=True)
    model.compute_type = compute_type


def _warn_unless_finite(model: Whisper, name: str) -> None:
    if (bad := _finite.bad_parameter(model)) is not None:
        warnings.warn(
            f"the model {name} is damaged and may not decode: its {bad} holds NaN or infinity", stacklevel=4
        )


def _set_heads(model: Whisper, heads: Any, name: str) -> None:
    chosen = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    if not isinstance(heads, list) or not all(_is_index(pair, chosen.shape) for pair in heads):
        warnings.warn(
            f"the alignment_heads of {name} are not pairs of a layer and a head of this model; "
            "word times will use the upper half of the decoder",
            stacklevel=4,
        )
        return
    if not heads:
        return
    for pair in heads:
        chosen[tuple(pair)] = True
    model.register_buffer("alignment_heads", chosen, persistent=False)


def _is_index(pair: Any, shape: tuple[int, ...]) -> bool:
    return (
        isinstance(pair, list | tuple)
        and len(pair) == len(shape)
        and all(type(i) is int and 0 <= i < size for i, size in zip(pair, shape, strict=True))
    )


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


def check_tensors(state: dict[str, Any], shapes: dict[str, tuple[int, ...]], name: str) -> None:
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


def tensor_shapes(dims: ModelDimensions) -> dict[str, tuple[int, ...]]:
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
