"""Whisper in the layout of Hugging Face's transformers: config.json, generation_config.json and weights.

The tensors are the same under other names; the output projection, which is the token embedding again,
is not stored. Names and fields are those of transformers' WhisperForConditionalGeneration.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _checkpoint, _foreign
from .model import ModelDimensions
from .tokenizer import get_tokenizer

_FIELDS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# What must stand in config.json, and what counts if it does not.
_FIXED = (
    ("model_type", "whisper", None),
    ("activation_function", "gelu", "gelu"),
    ("scale_embedding", False, False),
)
_NAMES = {
    "positional_embedding": "embed_positions.weight",
    "token_embedding": "embed_tokens",
    "blocks": "layers",
    "attn": "self_attn",
    "attn_ln": "self_attn_layer_norm",
    "cross_attn": "encoder_attn",
    "cross_attn_ln": "encoder_attn_layer_norm",
    "mlp_ln": "final_layer_norm",
    "ln": "layer_norm",
    "ln_post": "layer_norm",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "out_proj",
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SMALLEST_VOCABULARY = 51864  # below it a model cannot have Whisper's tokens
_GREATEST_HEADER = 100 << 20


def tensor_name(name: str) -> str:
    """transformers' name of the tensor that our state_dict calls `name`."""
    name = name.replace("mlp.0", "fc1").replace("mlp.2", "fc2")
    return "model." + ".".join(_NAMES.get(part, part) for part in name.split("."))


# --- reading ----------------------------------------------------------------------------------------------


def read_folder(folder: str, name: str, in_memory: bool) -> _checkpoint.Checkpoint:
    """The content of a folder with config.json and model.safetensors or pytorch_model.bin, whole or in parts.

    name: what the caller asked for, for the messages. Raises RuntimeError if it is no such folder.
    """
    for weights in _WEIGHTS:
        if os.path.isfile(os.path.join(folder, weights)):
            return _with_config(folder, _read_weights(os.path.join(folder, weights), name, in_memory), name)
        if os.path.isfile(os.path.join(folder, index := f"{weights}.index.json")):
            state: dict[str, Any] = {}
            for part in _parts(folder, index, name):
                state |= _read_weights(os.path.join(folder, part), name, in_memory)
            return _with_config(folder, state, name)
    reason = _foreign.kind_of_folder(folder) or f"it is a directory without {' or '.join(_WEIGHTS)}"
    raise RuntimeError(f"Model {name} cannot be loaded: {reason}")


def is_safetensors(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= os.path.getsize(path)


def read_safetensors(path: str, name: str, in_memory: bool) -> _checkpoint.Checkpoint:
    """The content of one safetensors file: save_model()'s own, or one with config.json beside it."""
    state = _read_weights(path, name, in_memory)
    with open(path, "rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), _GREATEST_HEADER)
        notes = json.loads(file.read(length)).get("__metadata__", {})
    if "dims" not in notes:
        if _foreign.is_part(path):
            raise RuntimeError(f"Model {name} cannot be loaded: it is one part of several: give their folder")
        return _with_config(os.path.dirname(path), state, name)
    try:
        dims, heads = json.loads(notes["dims"]), json.loads(notes.get("alignment_heads", "null"))
    except ValueError:
        dims = None
    if not isinstance(dims, dict):
        raise RuntimeError(f"Model {name} cannot be loaded: the dims in its header are damaged")
    return _checkpoint.Checkpoint(dims, state, heads, key=_naming(state, name))


def _read_weights(path: str, name: str, in_memory: bool) -> dict[str, Any]:
    source: str | bytes = path
    if in_memory:
        with open(path, "rb") as file:
            source = file.read()
    if not path.endswith(".bin") or is_safetensors(path):
        return _load_safetensors(source, name)
    content = _checkpoint.unpickle(source, name)
    if not isinstance(content, dict):
        raise RuntimeError(f"Model {name} cannot be loaded: {path} holds no dictionary of tensors")
    return content


def _load_safetensors(source: str | bytes, name: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load, load_file
    except ImportError:
        raise RuntimeError(f"Model {name} cannot be loaded: it needs pip install safetensors") from None
    try:
        return load(source) if isinstance(source, bytes) else load_file(source)
    except (SafetensorError, KeyError, ValueError) as error:
        reason = _foreign.kind_of_file(_head(source)) or "the safetensors file is damaged"
        raise RuntimeError(f"Model {name} cannot be loaded: {reason}") from error


def _head(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    with open(source, "rb") as file:
        return file.read(64)


def _parts(folder: str, index: str, name: str) -> list[str]:
    weights = _read_json(os.path.join(folder, index), name).get("weight_map")
    parts = sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else []
    if not parts or any(os.path.basename(part) != part for part in parts):
        raise RuntimeError(f"Model {name} cannot be loaded: {index} names no files of its folder")
    for part in parts:
        if not os.path.isfile(os.path.join(folder, part)):
            raise RuntimeError(f"Model {name} cannot be loaded: {part} is missing, which {index} names")
    return parts


def _read_json(path: str, name: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise RuntimeError(f"Model {name} cannot be loaded: {path} is missing") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RuntimeError(f"Model {name} cannot be loaded: {path} is damaged")
    return content


def _with_config(folder: str, state: dict[str, Any], name: str) -> _checkpoint.Checkpoint:
    config = _read_json(os.path.join(folder, "config.json"), name)
    for field, expected, absent in _FIXED:
        if (given := config.get(field, absent)) != expected:
            raise RuntimeError(
                f"Model {name} cannot be loaded: its config.json has {field} {given!r}, expected {expected!r}"
            )
    if missing := [field for field in _FIELDS.values() if field not in config]:
        raise RuntimeError(f"Model {name} cannot be loaded: its config.json has no {missing[0]}")
    generation = os.path.join(folder, "generation_config.json")
    heads = _read_json(generation, name).get("alignment_heads") if os.path.isfile(generation) else None
    dims = {ours: config[theirs] for ours, theirs in _FIELDS.items()}
    return _checkpoint.Checkpoint(dims, state, heads, key=_naming(state, name))


def _naming(state: dict[str, Any], name: str) -> Callable[[str], str]:
    """How the tensors of `state` are named; drops the output projection, which must be the embedding."""
    prefix = "model." if any(str(key).startswith("model.") for key in state) else ""
    if (projection := state.pop("proj_out.weight", None)) is not None:
        embedding = state.get(f"{prefix}decoder.embed_tokens.weight")
        if not (
            isinstance(projection, Tensor) and isinstance(embedding, Tensor) and projection.equal(embedding)
        ):
            raise RuntimeError(
                f"Model {name} cannot be loaded: its proj_out.weight differs from its token embedding"
            )
    return lambda ours: prefix + tensor_name(ours).removeprefix("model.")


# --- writing ----------------------------------------------------------------------------------------------


def config(dims: ModelDimensions, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json."""
    sizes = {theirs: getattr(dims, ours) for ours, theirs in _FIELDS.items()}
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        **sizes,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **_start_and_end(dims),
    }


def generation_config(dims: ModelDimensions, heads: list[list[int]]) -> dict[str, Any]:
    """The content of generation_config.json: what transformers' `generate` must know of the tokens."""
    common = {"alignment_heads": heads, "max_length": dims.n_text_ctx, **_start_and_end(dims)}
    if dims.n_vocab < _SMALLEST_VOCABULARY:
        return common
    multilingual, tokenizer = _tokenizer(dims)
    unspoken = {*tokenizer.non_speech_tokens, tokenizer.transcribe, tokenizer.translate}
    unspoken |= {tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm, tokenizer.no_speech}
    languages = zip(tokenizer.all_language_codes, tokenizer.all_language_tokens, strict=True)
    words = {
        "lang_to_id": {f"<|{code}|>": token for code, token in languages},
        "task_to_id": {"transcribe": tokenizer.transcribe, "translate": tokenizer.translate},
    }
    return {
        **common,
        "is_multilingual": multilingual,
        **(words if multilingual else {}),
        "max_initial_timestamp_index": 50,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "prev_sot_token_id": tokenizer.sot_prev,
        "return_timestamps": False,
        "suppress_tokens": sorted(unspoken),
        "begin_suppress_tokens": [*tokenizer.encode(" "), tokenizer.eot],
    }


def _tokenizer(dims: ModelDimensions) -> tuple[bool, Any]:
    multilingual = dims.n_vocab > _SMALLEST_VOCABULARY
    languages = dims.n_vocab - 51765 - int(multilingual)
    return multilingual, get_tokenizer(multilingual, num_languages=languages)


def _start_and_end(dims: ModelDimensions) -> dict[str, int | None]:
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    if dims.n_vocab < _SMALLEST_VOCABULARY:  # transformers takes nothing for the ends, but not for the start
        return {**dict.fromkeys(ends), "decoder_start_token_id": 0}
    _, tokenizer = _tokenizer(dims)
    return {**dict.fromkeys(ends, tokenizer.eot), "decoder_start_token_id": tokenizer.sot}
