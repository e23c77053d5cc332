"""The model that ships inside the package, stored small without a bit of loss.

File layout: magic, length of the JSON header (uint32, little endian), header, packed body. The body
holds the fp16 values of all tensors in the header's order, split in two planes: the high bytes (sign,
exponent, two bits of the fraction) Huffman-coded, the low bytes, which are noise, as they are. Rows
that a matrix repeats (words that the training never met) are stored once: the header names the matrix,
and a bit per row in the body says where the repeated row goes.

`python -m torchwhisper._bundled CHECKPOINT` writes the file from a checkpoint.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_MAGIC = b"TWMODEL1"
_ASSETS = Path(__file__).parent / "assets"

_Words = npt.NDArray[np.uint16]


def load(name: str) -> dict[str, Any]:
    """The checkpoint {"dims", "model_state_dict"} of a bundled model; its tensors are float16."""
    path = _ASSETS / f"{name}.model"
    try:
        return unpack(path.read_bytes())
    except FileNotFoundError:
        raise RuntimeError(f"the bundled model {name} is missing from this installation: {path}") from None
    except (ValueError, KeyError, zlib.error) as error:
        raise RuntimeError(f"the bundled model {name} is damaged, reinstall torchwhisper: {path}") from error


def pack(checkpoint: dict[str, Any]) -> bytes:
    """Pack a checkpoint of float16 tensors; unpack() gives the same bits back."""
    shapes, words, repeats, masks = [], [], {}, []
    for name, tensor in checkpoint["model_state_dict"].items():
        if tensor.dtype != torch.float16:
            raise ValueError(f"{name} is {tensor.dtype}, expected torch.float16")
        values = tensor.contiguous().numpy().view(np.uint16)
        shapes.append((name, list(values.shape)))
        if values.ndim == 2 and (mask := _repeated_row(values)) is not None:
            repeats[name] = int(mask.sum())
            masks.append(np.packbits(mask).tobytes())
            values = np.concatenate([values[~mask], values[mask][:1]])
        words.append(values.ravel())
    joined = np.concatenate(words)
    huffman = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    high = huffman.compress((joined >> 8).astype(np.uint8).tobytes()) + huffman.flush()
    body = b"".join([*masks, high, (joined & 0xFF).astype(np.uint8).tobytes()])
    header = {
        "dims": checkpoint["dims"],
        "tensors": shapes,
        "repeats": repeats,
        "high": len(high),
        "values": joined.size,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_MAGIC, len(text).to_bytes(4, "little"), text, body])


def unpack(data: bytes) -> dict[str, Any]:
    """The checkpoint that pack() was given. Raises ValueError if the data are damaged."""
    start = len(_MAGIC) + 4
    body_at = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    if data[: len(_MAGIC)] != _MAGIC or len(data) < body_at:
        raise ValueError("not a packed model")
    header = json.loads(data[start:body_at])
    body = memoryview(data)[body_at:]
    if hashlib.sha256(body).hexdigest() != header["sha256"]:
        raise ValueError("the packed model does not match its checksum")
    masks = {}
    for name, shape in header["tensors"]:
        if name in header["repeats"]:
            size = -(-shape[0] // 8)
            bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), count=shape[0])
            masks[name], body = bits.astype(bool), body[size:]
    high = np.frombuffer(zlib.decompress(body[: header["high"]]), np.uint8)
    low = np.frombuffer(body[header["high"] :], np.uint8)
    words: _Words = high.astype(np.uint16) << np.uint16(8) | low
    state = {}
    for name, shape in header["tensors"]:
        count = int(np.prod(shape)) - max(header["repeats"].get(name, 1) - 1, 0) * shape[-1]
        state[name] = _tensor(words[:count], shape, masks.get(name))
        words = words[count:]
    return {"dims": header["dims"], "model_state_dict": state}


def _repeated_row(values: _Words) -> npt.NDArray[np.bool_] | None:
    """Where the matrix's most frequent row stands, if it stands in more than one place."""
    _, first, counts = np.unique(values, axis=0, return_index=True, return_counts=True)
    if counts.max() == 1:
        return None
    mask: npt.NDArray[np.bool_] = (values == values[first[counts.argmax()]]).all(axis=1)
    return mask


def _tensor(words: _Words, shape: list[int], mask: npt.NDArray[np.bool_] | None) -> torch.Tensor:
    if mask is None:
        return torch.from_numpy(words.view(np.float16).reshape(shape))
    stored = words.reshape(-1, shape[1])
    values = np.empty(shape, np.uint16)
    values[mask], values[~mask] = stored[-1], stored[:-1]
    return torch.from_numpy(values.view(np.float16))


if __name__ == "__main__":
    source = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
    target = _ASSETS / f"{Path(sys.argv[1]).stem}.model"
    target.write_bytes(pack(source))
    print(f"{target}: {target.stat().st_size:,} bytes")
