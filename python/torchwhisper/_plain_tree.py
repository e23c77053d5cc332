"""What a plain encoder or decoder looks like: exactly as `model.py` makes it, on plain tensors."""

from __future__ import annotations

import functools
import weakref
from itertools import chain
from operator import itemgetter
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _C

hooks_of = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@functools.lru_cache(maxsize=1)
def model_module() -> ModuleType:
    from . import model

    return model


def stock() -> Any:
    """The classes of `model.py` as it made them: programs put others under their names."""
    return model_module()._STOCK


class NotPlainError(Exception):
    """Says which part of a tree is not plain."""


class Tree:
    """A plain encoder or decoder as it was when it was walked, with its live twin.

    It must not keep the modules alive: hooks in them may lead back to the key under which it is stored.
    """

    def __init__(self, root: nn.Module) -> None:
        named = _walk(root)
        modules = list(named.values())
        states = [vars(m) for m in modules]
        settings = [_settings().get(type(m), {}) for m in modules]
        self._names = list(named)
        self._below = [weakref.ref(m) for m in modules[1:]]
        self._types = [type(m) for m in modules]
        self._sizes = [len(s) for s in states]
        self._parents = [i for i, s in enumerate(states) if s["_modules"]]
        self._owners = [i for i, s in enumerate(states) if s["_parameters"]]
        self._settings = [(i, key) for i, wanted in enumerate(settings) for key in wanted]
        self._values = [states[i][key] for i, key in self._settings]
        tensors = self._tensors(states)
        self._ids = [id(t) for t in tensors]

        self.dims = _dims(root)
        self.tensors = _named_tensors(named, self.dims)
        self.device = _one_device(self.tensors)
        self._memory = _memory(tensors)
        twin = _C.AudioEncoder if "n_mels" in self.dims else _C.TextDecoder
        self.twin: _C.AudioEncoder | _C.TextDecoder = twin(self.dims, self.tensors)

    def look(self, root: nn.Module) -> tuple[bool, str | None]:
        """Whether modules, settings and tensors are still those that were walked, and which module below has
        hooks. This runs at every call of the model, so it is a few list comprehensions."""
        below = [ref() for ref in self._below]
        try:
            states = [m.__dict__ for m in (root, *below)]
        except AttributeError:  # one is gone
            return False, None
        tensors = self._tensors(states)
        holds = (
            [child for i in self._parents for child in states[i]["_modules"].values()] == below
            and [len(s) for s in states] == self._sizes
            and list(map(type, (root, *below))) == self._types
            and [states[i][key] for i, key in self._settings] == self._values
            and [id(t) for t in tensors] == self._ids
            and _memory(tensors) == self._memory
        )
        if not any(chain.from_iterable(map(hooks_of, states[1:]))):
            return holds, None
        hooked = (name for name, s in zip(self._names[1:], states[1:], strict=True) if any(hooks_of(s)))
        return holds, f"{next(hooked)} has hooks"

    def _tensors(self, states: list[dict[str, Any]]) -> list[Tensor]:
        tensors = [t for i in self._owners for t in states[i]["_parameters"].values() if t is not None]
        return tensors + [t for t in states[0]["_buffers"].values() if t is not None]


def _memory(tensors: list[Tensor]) -> tuple[list[int], list[torch.dtype]]:
    # The address stands for the storage and the device.
    return [t.data_ptr() for t in tensors], [t.dtype for t in tensors]


_ANY = object()


@functools.lru_cache(maxsize=2)
def _layout(root: Any) -> dict[type, dict[str, type]]:
    """The children of each class of module below an encoder or a decoder, in their order."""
    m = stock()
    block: dict[str, type] = {"attn": m.MultiHeadAttention, "attn_ln": m.LayerNorm}
    if root is m.TextDecoder:
        block |= {"cross_attn": m.MultiHeadAttention, "cross_attn_ln": m.LayerNorm}
    return {
        m.AudioEncoder: {
            "conv1": m.Conv1d,
            "conv2": m.Conv1d,
            "blocks": nn.ModuleList,
            "ln_post": m.LayerNorm,
        },
        m.TextDecoder: {"token_embedding": nn.Embedding, "blocks": nn.ModuleList, "ln": m.LayerNorm},
        m.ResidualAttentionBlock: block | {"mlp": nn.Sequential, "mlp_ln": m.LayerNorm},
        m.MultiHeadAttention: dict.fromkeys(("query", "key", "value", "out"), m.Linear),
        nn.Sequential: {"0": m.Linear, "1": nn.GELU, "2": m.Linear},
    }


@functools.lru_cache(maxsize=1)
def _settings() -> dict[type, dict[str, Any]]:
    """The settings that the engine takes for granted."""
    m = stock()
    return {
        m.Conv1d: {"stride": _ANY, "padding": (1,), "dilation": (1,), "groups": 1, "padding_mode": "zeros"},
        m.LayerNorm: {"eps": 1e-5},
        m.MultiHeadAttention: {"n_head": _ANY},
        nn.GELU: {"approximate": "none"},
        nn.Embedding: {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": False},
    }


def _walk(root: nn.Module) -> dict[str, nn.Module]:
    """The modules by name, level by level. Raises NotPlainError at what `model.py` would not make."""
    m = stock()
    if type(root) not in (m.AudioEncoder, m.TextDecoder):
        raise NotPlainError(f"{type(root).__name__} is not an encoder or decoder of torchwhisper.model")
    layout, named = _layout(cast(Any, type(root))), {"": root}
    level = [("", root)]
    while level:
        below = [
            (f"{name}.{child_name}" if name else child_name, child)
            for name, module in level
            for child_name, child in _plain_children(name, module, layout).items()
        ]
        named.update(below)
        level = below
    return named


def _plain_children(
    name: str, module: nn.Module, layout: dict[type, dict[str, type]]
) -> dict[str, nn.Module]:
    state, label = vars(module), name or f"the {type(module).__name__}"
    shadowed = _METHODS & state.keys()
    if shadowed:
        raise NotPlainError(f"{label} has its own {', '.join(sorted(shadowed))}")
    if state.get("_compiled_call_impl") is not None:
        raise NotPlainError(f"{label} is compiled")
    for key, wanted in _settings().get(type(module), {}).items():
        if wanted is not _ANY and state.get(key) != wanted:
            raise NotPlainError(f"{label} has {key}={state.get(key)!r}")

    children = cast(dict[str, nn.Module], state["_modules"])
    if type(module) is nn.ModuleList:
        wanted_types = dict.fromkeys(map(str, range(len(children))), stock().ResidualAttentionBlock)
    else:
        wanted_types = layout.get(type(module), {})
    for child_name, child in children.items():
        if type(child) is not wanted_types.get(child_name):
            cls = f"{type(child).__module__}.{type(child).__qualname__}"
            raise NotPlainError(f"{name}{'.' if name else ''}{child_name} is a {cls}")
    if list(children) != list(wanted_types):
        raise NotPlainError(f"{label} has the children {', '.join(children)}")
    return children


_METHODS = {"forward", "_call_impl", "_conv_forward", "qkv_attention", "_split_heads", "_merge_heads"}


def _dims(root: nn.Module) -> dict[str, int]:
    """The dimensions of a walked encoder or decoder, under the names of ModelDimensions."""
    kind = "audio" if type(root) is stock().AudioEncoder else "text"
    state = cast(Any, root)
    heads = {block.attn.n_head for block in state.blocks}
    heads |= {block.cross_attn.n_head for block in state.blocks if block.cross_attn is not None}
    if len(heads) != 1:
        raise NotPlainError(f"the blocks have {sorted(heads)} heads")
    positions = state.positional_embedding
    if not isinstance(positions, Tensor) or positions.ndim != 2:
        raise NotPlainError("positional_embedding is not a matrix")
    dims = {
        f"n_{kind}_ctx": positions.shape[0],
        f"n_{kind}_state": positions.shape[1],
        f"n_{kind}_head": heads.pop(),
        f"n_{kind}_layer": len(state.blocks),
    }
    if kind == "text":
        if not isinstance(state.mask, Tensor):
            raise NotPlainError("the decoder has no mask")
        return {"n_vocab": state.token_embedding.num_embeddings} | dims
    if (state.conv1.stride, state.conv2.stride) != ((1,), (2,)):
        raise NotPlainError("the convolutions have other strides")
    return {"n_mels": state.conv1.in_channels} | dims


def tensor_shapes(dims: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that an encoder or a decoder of these dimensions computes with."""
    kind = "audio" if "n_mels" in dims else "text"
    state = dims[f"n_{kind}_state"]
    shapes: dict[str, tuple[int, ...]] = {"positional_embedding": (dims[f"n_{kind}_ctx"], state)}

    def affine(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    for block in (f"blocks.{i}" for i in range(dims[f"n_{kind}_layer"])):
        for attn in ("attn", "cross_attn")[: 1 + (kind == "text")]:
            for projection in ("query", "key", "value", "out"):
                affine(f"{block}.{attn}.{projection}", state, state)
            del shapes[f"{block}.{attn}.key.bias"]
            affine(f"{block}.{attn}_ln", state)
        affine(f"{block}.mlp.0", 4 * state, state)
        affine(f"{block}.mlp.2", state, 4 * state)
        affine(f"{block}.mlp_ln", state)
    if kind == "audio":
        affine("conv1", state, dims["n_mels"], 3)
        affine("conv2", state, state, 3)
        affine("ln_post", state)
    else:
        shapes["token_embedding.weight"] = (dims["n_vocab"], state)
        affine("ln", state)
    return shapes


def _named_tensors(named: dict[str, nn.Module], dims: dict[str, int]) -> dict[str, Tensor]:
    """The tensors of a walked tree under their state_dict names, every one a plain one of the right shape."""
    wanted = tensor_shapes(dims)
    found = {
        f"{name}.{key}" if name else key: tensor
        for name, module in named.items()
        for key, tensor in (vars(module)["_parameters"] | vars(module)["_buffers"]).items()
        if tensor is not None
    }
    if missing := wanted.keys() - found.keys():
        raise NotPlainError(f"{min(missing)} is missing")
    tensors = {name: found[name] for name in wanted}
    for name, tensor in tensors.items():
        buffer = name == "positional_embedding" and "n_mels" in dims
        if type(tensor) is not (Tensor if buffer else nn.Parameter):
            raise NotPlainError(f"{name} is a {type(tensor).__qualname__}")
        if tensor.layout is not torch.strided or not tensor.is_floating_point():
            raise NotPlainError(f"{name} is a {tensor.layout} tensor of {tensor.dtype}")
        if tuple(tensor.shape) != wanted[name]:
            raise NotPlainError(f"{name} has the shape {tuple(tensor.shape)}, not {wanted[name]}")
    return tensors


def _one_device(tensors: dict[str, Tensor]) -> torch.device:
    devices = {t.device for t in tensors.values()}
    if len(devices) != 1:
        raise NotPlainError(f"the parameters are on {' and '.join(sorted(map(str, devices)))}")
    device = devices.pop()
    if device.type not in ("cpu", "cuda"):
        raise NotPlainError(f"the parameters are on {device}")
    return device
