"""Which way a computation goes: through the C++ engine or the PyTorch code of `model.py` and `decoding.py`.

One rule decides: a plain tree of modules on plain tensors goes to C++, with and without gradients; anything
else takes the Python path, which honours whatever was hooked, patched, swapped or subclassed. `explain` tells
which and why, `require` makes the Python path an error, `disable` makes it the only one; the environment
variable TORCHWHISPER_ENGINE (auto, require, off) sets the start.

The engine computes on the very tensors of the modules. A *live* twin adopts them and derives nothing, so it
is always current; a *prepared* twin holds packed copies and is checked against the weights when a `session`
begins.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module
from torch.utils._device import DeviceContext

from . import _C

if TYPE_CHECKING:
    from .model import AudioEncoder, TextDecoder, Whisper

_T = TypeVar("_T")

_MODES = ("auto", "require", "off")
_mode = os.environ.get("TORCHWHISPER_ENGINE") or "auto"
if _mode not in _MODES:
    raise ValueError(f"TORCHWHISPER_ENGINE is {_mode!r}, expected one of {', '.join(_MODES)}")


class _Switch:
    """A mode that holds from now on; used as a context, until its end."""

    def __init__(self, mode: str) -> None:
        global _mode
        self._before, _mode = _mode, mode

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _mode
        _mode = self._before


def require() -> _Switch:
    """From now on the Python path raises RuntimeError with the reason; `with require():` for a while only."""
    return _Switch("require")


def disable() -> _Switch:
    """From now on everything takes the Python path; `with disable():` for a while only."""
    return _Switch("off")


def explain(model: nn.Module) -> str:
    """Says in a sentence whether `model` is computed by the C++ engine, and if not, why.

    Args:
        model: a `Whisper`, or an `AudioEncoder` or `TextDecoder` alone.
    """
    found = _trees_of(model)
    if isinstance(found, str):
        return f"Python path: {found}."
    device, dtypes = found[0].device, {str(t.dtype) for tree in found for t in tree.tensors.values()}
    return f"C++ engine: the modules are plain, on {device}, in {' and '.join(sorted(dtypes))}."


def seal(classes: Iterable[type], names: Iterable[str]) -> list[tuple[type, str, Any]]:
    """Notes what these methods of the classes are, for `patched`."""
    return [(cls, name, getattr(cls, name)) for name in names for cls in classes if hasattr(cls, name)]


def patched(sealed: list[tuple[type, str, Any]]) -> bool:
    """Whether a method of the sealed classes was replaced since."""
    return any(getattr(cls, name, None) is not member for cls, name, member in sealed)


# ----------------------------------------------------------------------------------------------------------
# The rule
# ----------------------------------------------------------------------------------------------------------

_GLOBAL_HOOKS = (
    nn_module._global_forward_hooks,
    nn_module._global_forward_pre_hooks,
    nn_module._global_backward_hooks,
    nn_module._global_backward_pre_hooks,
)
_hooks_of = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@functools.lru_cache(maxsize=1)
def _model_module() -> ModuleType:
    from . import model

    return model


def _why_not_now() -> str | None:
    """What speaks against the engine at this moment, whatever the model."""
    model = _model_module()
    if _mode == "off":
        return "the engine is switched off"
    if torch._C._get_tracing_state() is not None:
        return "the call is traced"
    if torch._C._len_torch_dispatch_stack() or _foreign_function_modes():
        return "a dispatch or function mode is active"
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "a function transform or forward-mode differentiation is active"
    if any(_GLOBAL_HOOKS):
        return "there are global module hooks"
    if not (model.MultiHeadAttention.use_sdpa is True and model.SDPA_AVAILABLE is True):
        return "scaled_dot_product_attention is switched off"
    if patched(model._SEALED) or model.scaled_dot_product_attention is not _SDPA:
        return "a class of the model is patched"
    return None


_SDPA = torch.nn.functional.scaled_dot_product_attention


def _foreign_function_modes() -> bool:
    # torch.set_default_device is such a mode, and means nothing to the engine.
    return any(
        not isinstance(torch._C._get_function_stack_at(i), DeviceContext)
        for i in range(torch._C._len_torch_function_stack())
    )


class _NotPlainError(Exception):
    """Says which part of a tree is not plain."""


class _Tree:
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
        self._identity = self._identify(states)

        self.dims = _dims(root)
        self.tensors = _named_tensors(named, self.dims)
        self.device = _one_device(self.tensors)
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
        holds = (
            [child for i in self._parents for child in states[i]["_modules"].values()] == below
            and [len(s) for s in states] == self._sizes
            and list(map(type, (root, *below))) == self._types
            and [states[i][key] for i, key in self._settings] == self._values
            and self._identify(states) == self._identity
        )
        if not any(chain.from_iterable(map(_hooks_of, states[1:]))):
            return holds, None
        hooked = (name for name, s in zip(self._names[1:], states[1:], strict=True) if any(_hooks_of(s)))
        return holds, f"{next(hooked)} has hooks"

    def _identify(self, states: list[dict[str, Any]]) -> tuple[list[int], list[int], list[torch.dtype]]:
        # data_ptr stands for the storage and the device.
        tensors = [t for i in self._owners for t in states[i]["_parameters"].values() if t is not None]
        tensors += [t for t in states[0]["_buffers"].values() if t is not None]
        return [id(t) for t in tensors], [t.data_ptr() for t in tensors], [t.dtype for t in tensors]


# ----------------------------------------------------------------------------------------------------------
# What a plain tree looks like
# ----------------------------------------------------------------------------------------------------------

_ANY = object()


@functools.lru_cache(maxsize=2)
def _layout(root: Any) -> dict[type, dict[str, type]]:
    """The children of each class of module below an encoder or a decoder, in their order."""
    m = _model_module()
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
    m = _model_module()
    return {
        m.Conv1d: {"stride": _ANY, "padding": (1,), "dilation": (1,), "groups": 1, "padding_mode": "zeros"},
        m.LayerNorm: {"eps": 1e-5},
        m.MultiHeadAttention: {"n_head": _ANY},
        nn.GELU: {"approximate": "none"},
        nn.Embedding: {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": False},
    }


def _walk(root: nn.Module) -> dict[str, nn.Module]:
    """The modules by name, level by level. Raises _NotPlainError at what `model.py` would not make."""
    m = _model_module()
    if type(root) not in (m.AudioEncoder, m.TextDecoder):
        raise _NotPlainError(f"{type(root).__name__} is not an encoder or decoder of torchwhisper.model")
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
        raise _NotPlainError(f"{label} has its own {', '.join(sorted(shadowed))}")
    if state.get("_compiled_call_impl") is not None:
        raise _NotPlainError(f"{label} is compiled")
    for key, wanted in _settings().get(type(module), {}).items():
        if wanted is not _ANY and state.get(key) != wanted:
            raise _NotPlainError(f"{label} has {key}={state.get(key)!r}")

    children = cast(dict[str, nn.Module], state["_modules"])
    if type(module) is nn.ModuleList:
        wanted_types = dict.fromkeys(map(str, range(len(children))), _model_module().ResidualAttentionBlock)
    else:
        wanted_types = layout.get(type(module), {})
    for child_name, child in children.items():
        if type(child) is not wanted_types.get(child_name):
            raise _NotPlainError(f"{name}{'.' if name else ''}{child_name} is a {type(child).__qualname__}")
    if list(children) != list(wanted_types):
        raise _NotPlainError(f"{label} has the children {', '.join(children)}")
    return children


_METHODS = {"forward", "_call_impl", "_conv_forward", "qkv_attention", "_split_heads", "_merge_heads"}


def _dims(root: nn.Module) -> dict[str, int]:
    """The dimensions of a walked encoder or decoder, under the names of ModelDimensions."""
    kind = "audio" if type(root) is _model_module().AudioEncoder else "text"
    state = cast(Any, root)
    heads = {block.attn.n_head for block in state.blocks}
    heads |= {block.cross_attn.n_head for block in state.blocks if block.cross_attn is not None}
    if len(heads) != 1:
        raise _NotPlainError(f"the blocks have {sorted(heads)} heads")
    positions = state.positional_embedding
    if not isinstance(positions, Tensor) or positions.ndim != 2:
        raise _NotPlainError("positional_embedding is not a matrix")
    dims = {
        f"n_{kind}_ctx": positions.shape[0],
        f"n_{kind}_state": positions.shape[1],
        f"n_{kind}_head": heads.pop(),
        f"n_{kind}_layer": len(state.blocks),
    }
    if kind == "text":
        if not isinstance(state.mask, Tensor):
            raise _NotPlainError("the decoder has no mask")
        return {"n_vocab": state.token_embedding.num_embeddings} | dims
    if (state.conv1.stride, state.conv2.stride) != ((1,), (2,)):
        raise _NotPlainError("the convolutions have other strides")
    return {"n_mels": state.conv1.in_channels} | dims


def _shapes(dims: dict[str, int]) -> dict[str, tuple[int, ...]]:
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
    wanted = _shapes(dims)
    found = {
        f"{name}.{key}" if name else key: tensor
        for name, module in named.items()
        for key, tensor in (vars(module)["_parameters"] | vars(module)["_buffers"]).items()
        if tensor is not None
    }
    if missing := wanted.keys() - found.keys():
        raise _NotPlainError(f"{min(missing)} is missing")
    tensors = {name: found[name] for name in wanted}
    for name, tensor in tensors.items():
        buffer = name == "positional_embedding" and "n_mels" in dims
        if type(tensor) is not (Tensor if buffer else nn.Parameter):
            raise _NotPlainError(f"{name} is a {type(tensor).__qualname__}")
        if tensor.layout is not torch.strided or not tensor.is_floating_point():
            raise _NotPlainError(f"{name} is a {tensor.layout} tensor of {tensor.dtype}")
        if tuple(tensor.shape) != wanted[name]:
            raise _NotPlainError(f"{name} has the shape {tuple(tensor.shape)}, not {wanted[name]}")
    return tensors


def _one_device(tensors: dict[str, Tensor]) -> torch.device:
    devices = {t.device for t in tensors.values()}
    if len(devices) != 1:
        raise _NotPlainError(f"the parameters are on {' and '.join(sorted(map(str, devices)))}")
    device = devices.pop()
    if device.type not in ("cpu", "cuda"):
        raise _NotPlainError(f"the parameters are on {device}")
    return device


# ----------------------------------------------------------------------------------------------------------
# Direct calls: live twins
# ----------------------------------------------------------------------------------------------------------

_trees: weakref.WeakKeyDictionary[nn.Module, _Tree] = weakref.WeakKeyDictionary()


def _plain_tree(root: nn.Module, root_counts: bool) -> _Tree | str:
    """The tree of an encoder or a decoder, or why the engine cannot compute it now."""
    if reason := _why_not_now():
        return reason
    tree = _trees.get(root)
    holds, hooked = tree.look(root) if tree is not None else (False, None)
    if tree is None or not holds:
        _trees.pop(root, None)
        try:
            tree = _trees[root] = _Tree(root)
        except _NotPlainError as error:
            return str(error)
        _, hooked = tree.look(root)
    if torch.is_autocast_enabled(tree.device.type):
        return "autocast is on"
    if hooked is None and root_counts and any(_hooks_of(vars(root))):
        hooked = f"the {type(root).__name__} has hooks"
    return hooked or tree


def _or_python(found: _T | str) -> _T | None:
    """What was found, or None for the Python path."""
    if not isinstance(found, str):
        return found
    if _mode == "require":
        raise RuntimeError(f"the C++ engine is required, but {found}")
    return None


def _is_plain_input(x: Any, ndim: int, device: torch.device) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.ndim == ndim and x.device == device


def encoder_for(module: AudioEncoder, mel: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The engine's forward for a call of `module`; None where the Python path has to be taken."""
    if torch.compiler.is_compiling():
        return _or_python("the module is being compiled")
    tree = _plain_tree(module, root_counts=False)
    if isinstance(tree, str):
        return _or_python(tree)
    if not _is_plain_input(mel, 3, tree.device) or not mel.is_floating_point():
        return _or_python(f"the input is not a plain tensor [batch, n_mels, frames] on {tree.device}")
    twin = _prepared_now(tree, mel.dtype)
    if twin is not None:
        return functools.partial(twin.embed_audio, control=_C.Control())
    return cast(_C.AudioEncoder, tree.twin).forward


def decoder_for(
    module: TextDecoder, tokens: Tensor, features: Tensor, kv_cache: Any
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The engine's forward for a call of `module`; None where the Python path has to be taken."""
    if torch.compiler.is_compiling():
        return _or_python("the module is being compiled")
    if kv_cache is not None:
        return _or_python("the caller keeps a kv_cache")
    tree = _plain_tree(module, root_counts=False)
    if isinstance(tree, str):
        return _or_python(tree)
    plain = _is_plain_input(tokens, 2, tree.device) and _is_plain_input(features, 3, tree.device)
    if not plain or tokens.dtype not in (torch.int64, torch.int32) or not features.is_floating_point():
        return _or_python(
            f"the inputs are not plain tokens [batch, n] and features of 3 axes on {tree.device}"
        )
    twin = _prepared_now(tree, features.dtype)
    return twin.logits if twin is not None else cast(_C.TextDecoder, tree.twin).forward


# ----------------------------------------------------------------------------------------------------------
# Whole computations: prepared twins
# ----------------------------------------------------------------------------------------------------------


class _Prepared(NamedTuple):
    """A twin with packed weights, and what the weights were."""

    twin: _C.Whisper
    weights: list[Any]
    fingerprint: int


class _Session(NamedTuple):
    trees: tuple[_Tree, ...]
    dtype: torch.dtype
    twin: _C.Whisper


class _Slot:
    """The prepared twins of one model."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_dtype: dict[torch.dtype, _Prepared] = {}


_slots: weakref.WeakKeyDictionary[nn.Module, _Slot] = weakref.WeakKeyDictionary()
_slots_lock = threading.Lock()
_open_sessions = threading.local()


@contextmanager
def session(model: Whisper, dtype: torch.dtype, reason: str | None = None) -> Iterator[_C.Whisper | None]:
    """One decode() or transcribe(): the weights are checked once, at its beginning.

    Direct calls of the model's halves within it, in `dtype` and without gradients, use the packed weights
    too. A session within a session of the same model and dtype checks nothing again.

    Args:
        dtype: what to compute in, the dtype of the log-mel.
        reason: something of the caller's that speaks against the engine.

    Yields:
        The prepared engine, or None where the Python path has to be taken.
    """
    trees = reason or _trees_of(model)
    if isinstance(trees, str):
        yield _or_python(trees)
        return
    stack = _session_stack()
    twin = next((s.twin for s in reversed(stack) if s.trees == trees and s.dtype == dtype), None)
    stack.append(_Session(trees, dtype, twin or _prepared_twin(model, trees, dtype)))
    try:
        yield stack[-1].twin
    finally:
        stack.pop()


def _session_stack() -> list[_Session]:
    if not hasattr(_open_sessions, "stack"):
        _open_sessions.stack = []
    return cast(list[_Session], _open_sessions.stack)


def _prepared_now(tree: _Tree, dtype: torch.dtype) -> _C.Whisper | None:
    """The prepared twin of an open session that may stand for the live one."""
    stack = _session_stack()
    if not stack or torch.is_grad_enabled():
        return None
    last = stack[-1]
    return last.twin if tree in last.trees and last.dtype == dtype else None


def _trees_of(model: nn.Module) -> tuple[_Tree, ...] | str:
    """The trees below a model, or why the engine cannot compute it now."""
    whisper = type(model) is _model_module().Whisper
    if whisper and "install_kv_cache_hooks" in vars(model):
        return "the model has its own install_kv_cache_hooks"
    if not whisper and isinstance(model, _model_module().Whisper):
        return f"{type(model).__qualname__} is a subclass of Whisper"
    halves = (model.encoder, model.decoder) if whisper else (model,)
    trees = []
    for half in cast(tuple[nn.Module, ...], halves):
        tree = _plain_tree(half, root_counts=True)
        if isinstance(tree, str):
            return tree
        trees.append(tree)
    if len({tree.device for tree in trees}) > 1:
        return "encoder and decoder are on different devices"
    return tuple(trees)


def _weights(trees: tuple[_Tree, ...]) -> list[Any]:
    return [
        (id(t), t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype, t.shape, t.stride())
        for tree in trees
        for t in tree.tensors.values()
    ]


def _prepared_twin(model: nn.Module, trees: tuple[_Tree, ...], dtype: torch.dtype) -> _C.Whisper:
    """A twin whose packed weights are the model's at this moment.

    Fused optimizers, writes through numpy or `.data` and merges of adapters move no version counter, so the
    bytes are compared too. A stale twin is replaced, never changed: another thread may be using it.
    """
    with _slots_lock:
        slot = _slots.setdefault(model, _Slot())
    with slot.lock:
        found, weights = slot.by_dtype.get(dtype), _weights(trees)
        if found is not None and found.weights == weights and found.twin.fingerprint() == found.fingerprint:
            return found.twin
        slot.by_dtype.pop(dtype, None)
        del found
        tensors = {
            f"{half}.{name}": tensor
            for half, tree in zip(("encoder", "decoder"), trees, strict=True)
            for name, tensor in tree.tensors.items()
        }
        twin = _C.Whisper(trees[0].dims | trees[1].dims, tensors)
        fingerprint = twin.fingerprint()
        twin.prepare(dtype)
        slot.by_dtype[dtype] = _Prepared(twin, weights, fingerprint)
        return twin
