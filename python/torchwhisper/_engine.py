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
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module
from torch.utils._device import DeviceContext

from . import _C, _compute_type, _mapped
from ._block_training import BlockTraining
from ._plain_tree import NotPlainError, Tree, hooks_of, model_module, stock

if TYPE_CHECKING:
    from .model import AudioEncoder, TextDecoder, Whisper

_T = TypeVar("_T")
_NOTHING_SPECIAL = BlockTraining()

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
    chosen = _compute_type.of(model)
    computed = "" if chosen == "default" else f", computed in {chosen}"
    if torch.is_autocast_enabled(device.type):
        computed += ", but for calls without gradients, as transcribe() makes them: autocast is on"
    return f"C++ engine: the modules are plain, on {device}, in {' and '.join(sorted(dtypes))}{computed}."


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


def _why_not_now() -> str | None:
    """What speaks against the engine at this moment, whatever the model."""
    model = model_module()
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


# ----------------------------------------------------------------------------------------------------------
# Direct calls: live twins
# ----------------------------------------------------------------------------------------------------------

_trees: weakref.WeakKeyDictionary[nn.Module, Tree] = weakref.WeakKeyDictionary()


def _plain_tree(root: nn.Module, root_counts: bool) -> Tree | str:
    """The tree of an encoder or a decoder, or why the engine cannot compute it now."""
    if reason := _why_not_now():
        return reason
    tree = _trees.get(root)
    holds, hooked = tree.look(root) if tree is not None else (False, None)
    if tree is None or not holds:
        _trees.pop(root, None)
        try:
            tree = _trees[root] = Tree(root)
        except NotPlainError as error:
            return str(error)
        _, hooked = tree.look(root)
    if torch.is_autocast_enabled(tree.device.type) and not torch.is_grad_enabled():
        return "autocast is on"
    if hooked is None and root_counts and any(hooks_of(vars(root))):
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
    twin, control = _prepared_now(tree, mel.dtype), _C.Control()
    if twin is not None:
        return functools.partial(twin.embed_audio, control=control)
    live = cast(_C.AudioEncoder, tree.twin)
    return functools.partial(live.forward, control=control, **_block_training(module))


def decoder_for(
    module: TextDecoder, tokens: Tensor, features: Tensor, kv_cache: Any, hidden: bool = False
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The engine's forward for a call of `module`; None where the Python path has to be taken.

    Args:
        hidden: up to the last normalisation only, for `TextDecoder.hidden`.
    """
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
    live, control = cast(_C.TextDecoder, tree.twin), _C.Control()
    if hidden:
        return functools.partial(live.hidden, control=control, **_block_training(module))
    twin = _prepared_now(tree, features.dtype)
    if twin is not None:
        return functools.partial(twin.logits, control=control)
    return functools.partial(live.forward, control=control, **_block_training(module))


def _block_training(module: AudioEncoder | TextDecoder) -> dict[str, Any]:
    training = module.block_training.now(module)
    if training == _NOTHING_SPECIAL:
        return {}
    return {**training._asdict(), "policy": training.policy or ""}


# ----------------------------------------------------------------------------------------------------------
# Whole computations: prepared twins
# ----------------------------------------------------------------------------------------------------------


class _Prepared(NamedTuple):
    """A twin with packed weights, and what the weights were."""

    twin: _C.Whisper
    weights: list[Any]
    bytes: int | frozenset[tuple[object, ...]]


@dataclass
class _Session:
    trees: tuple[Tree, ...]
    dtype: torch.dtype  # of the activations
    packed: str  # what the weights are packed in
    twin: _C.Whisper
    remembered: tuple[Tensor, tuple[Any, ...], _C.AudioMemory] | None = None


class _Slot:
    """The prepared twins of one model."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_type: dict[tuple[torch.dtype, str], _Prepared] = {}


_slots: weakref.WeakKeyDictionary[nn.Module, _Slot] = weakref.WeakKeyDictionary()
_slots_lock = threading.Lock()
_open_sessions = threading.local()


@contextmanager
def session(model: Whisper, dtype: torch.dtype, reason: str | None = None) -> Iterator[_C.Whisper | None]:
    """One decode() or transcribe(): the weights are checked once, at its beginning.

    Direct calls of the model's halves within it, in `dtype` and without gradients, use the packed weights
    too. A session within a session of the same model and types checks nothing again.

    Args:
        dtype: what to compute in, the dtype of the log-mel.
        reason: something of the caller's that speaks against the engine.

    Yields:
        The prepared engine, or None where the Python path has to be taken.

    Raises:
        ValueError: the model was moved to a device that does not compute its compute type.
    """
    trees = reason or _trees_of(model)
    if isinstance(trees, str):
        yield _or_python(trees)
        return
    packed = _compute_type.packed(model, dtype, trees[0].device)
    wanted = (trees, dtype, packed)
    stack = _session_stack()
    twin = next((s.twin for s in reversed(stack) if (s.trees, s.dtype, s.packed) == wanted), None)
    stack.append(_Session(*wanted, twin or _prepared_twin(model, *wanted)))
    try:
        yield stack[-1].twin
    finally:
        stack.pop()


def memory_of(engine: _C.Whisper, features: Tensor) -> _C.AudioMemory:
    """The decoder's keys and values of audio features [n_audio, frame, n_state].

    Kept until the session meets other features: each temperature tried and the word times of one window read
    the same ones.
    """
    session = next(s for s in _session_stack() if s.twin is engine)
    state = _state_of(features)
    if session.remembered is None or session.remembered[1] != state:
        session.remembered = None  # its memory goes before the new one comes
        session.remembered = (features, state, engine.remember(features, _C.Control()))
    return session.remembered[2]


def release() -> None:
    """Gives up every tensor that the engine holds, if torch is to convert parameters by swapping them.

    torch exchanges the insides of two tensors only where nobody else holds them.
    """
    if torch.__future__.get_swap_module_params_on_conversion():
        _trees.clear()
        with _slots_lock:
            _slots.clear()


def _session_stack() -> list[_Session]:
    if not hasattr(_open_sessions, "stack"):
        _open_sessions.stack = []
    return cast(list[_Session], _open_sessions.stack)


def _prepared_now(tree: Tree, dtype: torch.dtype) -> _C.Whisper | None:
    """The prepared twin of an open session that may stand for the live one."""
    stack = _session_stack()
    if not stack or torch.is_grad_enabled():
        return None
    last = stack[-1]
    return last.twin if tree in last.trees and last.dtype == dtype else None


def _trees_of(model: nn.Module) -> tuple[Tree, ...] | str:
    """The trees below a model, or why the engine cannot compute it now."""
    whisper = type(model) is stock().Whisper
    if whisper and "install_kv_cache_hooks" in vars(model):
        return "the model has its own install_kv_cache_hooks"
    if not whisper and isinstance(model, stock().Whisper):
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


def _weights(trees: tuple[Tree, ...]) -> list[Any]:
    return [(id(t), *_state_of(t)) for tree in trees for t in tree.tensors.values()]


def _state_of(t: Tensor) -> tuple[Any, ...]:
    return (t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype, t.shape, t.stride())


def _prepared_twin(model: nn.Module, trees: tuple[Tree, ...], dtype: torch.dtype, packed: str) -> _C.Whisper:
    """A twin whose packed weights are the model's at this moment.

    Fused optimizers, writes through numpy or `.data` and merges of adapters move no version counter, so the
    bytes are compared too. A stale twin is replaced, never changed: another thread may be using it.
    """
    with _slots_lock:
        slot = _slots.setdefault(model, _Slot())
    with slot.lock:
        key = (dtype, packed)
        found, weights = slot.by_type.get(key), _weights(trees)
        if (
            found is not None
            and found.weights == weights
            and _state_of_bytes(found.twin, model, trees) == found.bytes
        ):
            return found.twin
        slot.by_type = {t: p for t, p in slot.by_type.items() if t != key and p.weights == weights}
        del found  # its memory goes before the new twin's comes, unless another thread still uses it
        tensors = {
            f"{half}.{name}": tensor
            for half, tree in zip(("encoder", "decoder"), trees, strict=True)
            for name, tensor in tree.tensors.items()
        }
        twin = _C.Whisper(trees[0].dims | trees[1].dims, tensors)
        before = _state_of_bytes(twin, model, trees)
        twin.prepare(dtype, packed, _C.Control())
        slot.by_type[key] = _Prepared(twin, weights, before)
        if not isinstance(before, int):
            _mapped.let_go(tensors.values())
        return twin


def _state_of_bytes(
    twin: _C.Whisper, model: nn.Module, trees: tuple[Tree, ...]
) -> int | frozenset[tuple[object, ...]]:
    """What tells whether a weight was written to: the files that they all lie in untouched, or a checksum."""
    files = None
    if _compute_type.of(model) != "default":  # else they are copies
        files = _mapped.files_of(tensor for tree in trees for tensor in tree.tensors.values())
    return twin.fingerprint(_C.Control()) if files is None else files
