"""Writes whisper.cpp's model file: sizes, mel filters, vocabulary and tensors, one after the other.

Little-endian; each tensor stands behind its number of dimensions, the length of its name, its type, its
dimensions from the innermost, and its name.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Array = np.ndarray[Any, Any]

_MAGIC = 0x67676D6C
_F32, _F16, _Q8_0 = 0, 1, 8  # types of tensors
_KINDS = {
    "f16": (1, _F16),
    "q8_0": (2 * 1000 + 7, _Q8_0),
}  # of the file (version of the blocks, kind), of matrices
_BLOCK = 32
_ENGLISH = 51864  # the vocabulary of models for English only
_SIZES = (
    *("n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer"),
    *("n_text_ctx", "n_text_state", "n_text_head", "n_text_layer", "n_mels"),
)
_EXACT = (
    *("encoder.conv1.bias", "encoder.conv2.bias"),
    *("encoder.positional_embedding", "decoder.positional_embedding"),
)


def write(checkpoint: Path, target: Path, kind: str) -> None:
    """checkpoint: an OpenAI checkpoint; kind: f16 or q8_0."""
    import torch

    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    dims, of_file, of_matrix = content["dims"], *_KINDS[kind]
    with target.open("wb") as file:
        file.write(struct.pack("<12i", _MAGIC, *(dims[size] for size in _SIZES), of_file))
        _write_filters(file, dims["n_mels"])
        _write_vocabulary(file, "multilingual" if dims["n_vocab"] > _ENGLISH else "gpt2")
        for name, tensor in content["model_state_dict"].items():
            _write_tensor(file, name, tensor.float().numpy(), of_matrix)


def _write_filters(file: BinaryIO, mels: int) -> None:
    from torchwhisper.audio import mel_filters

    filters = mel_filters("cpu", mels).numpy()
    file.write(struct.pack("<2i", *filters.shape))
    file.write(filters.astype("<f4").tobytes())


def _write_vocabulary(file: BinaryIO, name: str) -> None:
    from torchwhisper.tokenizer import get_encoding

    ranks = get_encoding(name)._mergeable_ranks
    file.write(struct.pack("<i", len(ranks)))
    for token in sorted(ranks, key=lambda token: ranks[token]):
        file.write(struct.pack("<i", len(token)) + token)


def _write_tensor(file: BinaryIO, name: str, values: Array, of_matrix: int) -> None:
    if name in _EXACT:
        values = values.reshape(values.shape[0], -1)
    kind = _F32 if name in _EXACT or values.ndim < 2 else of_matrix
    if kind == _Q8_0 and values.ndim != 2:
        kind = _F16  # the convolutions
    encoded = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(encoded), kind))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + encoded)
    if kind == _Q8_0:
        file.write(blocks(values))
    else:
        file.write(values.astype("<f2" if kind == _F16 else "<f4").tobytes())


def blocks(values: Array) -> bytes:
    """q8_0: of every 32 values a scale in half precision, then 32 signed bytes.

    values: [rows, columns], columns a multiple of 32.
    """
    grouped = values.astype(np.float32).reshape(-1, _BLOCK)
    scales = np.abs(grouped).max(axis=1, keepdims=True) / 127
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    result = np.empty(len(grouped), dtype=[("scale", "<f2"), ("values", "i1", _BLOCK)])
    result["scale"] = scales[:, 0]
    result["values"] = np.rint(grouped * inverse)
    return result.tobytes()
