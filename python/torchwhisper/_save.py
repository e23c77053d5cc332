"""save_model(): models as OpenAI checkpoints, and for Hugging Face's transformers."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from . import _checkpoint, _hugging_face
from .model import Whisper

FORMATS = ("pt", "safetensors", "hugging_face")
_SUFFIXES = {".pt": "pt", ".pth": "pt", ".ckpt": "pt", ".safetensors": "safetensors", "": "hugging_face"}


def save_model(model: Whisper, path: str | os.PathLike[str], format: str | None = None) -> None:
    """Write a model so that load_model(path) gives it back, with its alignment heads.

    model: with Whisper's layers only; adapters have to be merged first.
    path: where to; each file there is whole, the old or the new one, whatever happens.
    format: "pt", a checkpoint that openai-whisper loads too; "hugging_face", a folder for transformers'
        WhisperForConditionalGeneration.from_pretrained (config.json, generation_config.json,
        model.safetensors); "safetensors", one file with the names of transformers and the dims in its
        header. Default by the suffix: .pt, .pth or .ckpt, none (the folder), .safetensors.

    The parameters keep their dtype. Raises ValueError for an unknown format or suffix and RuntimeError if
    the model's tensors are not those that its dims ask for.
    """
    path = os.fspath(path)
    if format is None:
        suffix = "" if os.path.isdir(path) else os.path.splitext(path.rstrip("/\\"))[1]
        format = _SUFFIXES.get(suffix)
        if format is None:
            raise ValueError(f"{path} ends in {suffix}, which names no format: pass format, one of {FORMATS}")
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {FORMATS}")
    state = _tensors(model)
    heads = model.alignment_heads.to_dense().nonzero().tolist()
    if format == "pt":
        content = {"dims": dict(vars(model.dims)), "model_state_dict": state, "alignment_heads": heads}
        write_torch(content, path)
        return
    dims = json.dumps(vars(model.dims))
    notes = {"format": "pt", "dims": dims, "alignment_heads": json.dumps(heads)}
    renamed = {_hugging_face.tensor_name(key): tensor for key, tensor in state.items()}
    if format == "safetensors":
        _write_safetensors(renamed, path, notes)
        return
    os.makedirs(path, exist_ok=True)
    dtype = next(iter(state.values())).dtype
    _write_json(_hugging_face.config(model.dims, dtype), os.path.join(path, "config.json"))
    generation = _hugging_face.generation_config(model.dims, heads)
    _write_json(generation, os.path.join(path, "generation_config.json"))
    _write_safetensors(renamed, os.path.join(path, "model.safetensors"), notes)


def _tensors(model: Whisper) -> dict[str, Tensor]:
    """The state_dict in host memory, each tensor with a storage of its own size."""
    state = model.state_dict()
    for key, tensor in state.items():
        if type(tensor) not in (Tensor, nn.Parameter):
            raise RuntimeError(f"{key} is a {type(tensor).__name__}, expected a whole, plain tensor")
    _checkpoint.check_tensors(state, _checkpoint.tensor_shapes(model.dims), f"of type {type(model).__name__}")
    result, seen = {}, set()
    for key, tensor in state.items():
        copy = tensor.detach().cpu().contiguous()
        storage = copy.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != copy.nbytes:
            copy = copy.clone()
        seen.add(storage.data_ptr())
        result[key] = copy
    return result


def write_torch(content: Any, path: str) -> None:
    """torch.save() to a file that is whole or absent. Raises RuntimeError where the disk is full, say."""
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # of how much torch wrote, whatever the reason is
            free = shutil.disk_usage(os.path.dirname(temporary) or ".").free / 1e6
            raise RuntimeError(f"{path} cannot be written, {free:.0f} MB are free there: {error}") from None


def _write_safetensors(state: dict[str, Tensor], path: str, notes: dict[str, str]) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise RuntimeError(f"{path} cannot be written: it needs pip install safetensors") from None
    with replacing(path) as temporary:
        save_file(state, temporary, notes)


def _write_json(content: dict[str, Any], path: str) -> None:
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Gives the name of a file to write, which takes the name `path` when it is complete."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
