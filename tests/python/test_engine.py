"""The rule that chooses between the C++ engine and the Python path."""

import contextlib
import copy
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from conftest import SMALL, fill
from torch import nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.prune import random_unstructured
from torch.testing import assert_close

import torchwhisper.model as tm
from torchwhisper import _engine
from torchwhisper.decoding import DecodingOptions, decode

Disturbance = Callable[[tm.Whisper], object]
DISTURBANCES: dict[str, tuple[Disturbance, str]] = {}


def disturbance(reason: str) -> Callable[[Disturbance], Disturbance]:
    def note(function: Disturbance) -> Disturbance:
        DISTURBANCES[function.__name__] = (function, reason)
        return function

    return note


@disturbance(r"conv1 has hooks")
def forward_hook(model):
    return model.encoder.conv1.register_forward_hook(lambda m, i, o: o + 1)


@disturbance(r"blocks.1.mlp has hooks")
def forward_pre_hook(model):
    for half in (model.encoder, model.decoder):
        half.blocks[1].mlp.register_forward_pre_hook(lambda m, i: (i[0] + 1,))


@disturbance(r"blocks.0.attn.key has hooks")
def backward_hook(model):
    for half in (model.encoder, model.decoder):
        half.blocks[0].attn.key.register_full_backward_hook(lambda m, i, o: None)


@disturbance(r"blocks.0.mlp.0 is a torch.nn.modules.linear.Linear")
def other_class_of_the_same_name(model):
    for half in (model.encoder, model.decoder):
        old = half.blocks[0].mlp[0]
        half.blocks[0].mlp[0] = nn.Linear(old.in_features, old.out_features)


@disturbance(r"blocks.0.attn.query is a .*Adapter")
def adapter(model):
    class Adapter(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base

        def forward(self, x):
            return self.base(x) * 2

    for half in (model.encoder, model.decoder):
        half.blocks[0].attn.query = Adapter(half.blocks[0].attn.query)


@disturbance(r"has its own forward")
def patched_instance(model):
    for half in (model.encoder, model.decoder):
        ln = half.blocks[0].attn_ln
        ln.forward = lambda x, forward=ln.forward: forward(x) * 2


@disturbance(r"Parametrized")
def parametrization(model):
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    for half in (model.encoder, model.decoder):
        nn.utils.parametrize.register_parametrization(half.blocks[0].attn.query, "weight", Twice())


@disturbance(r"blocks.0.mlp.0.weight")
def pruning(model):
    for half in (model.encoder, model.decoder):
        random_unstructured(half.blocks[0].mlp[0], "weight", 0.5)


@disturbance(r"eps=0.1")
def setting(model):
    for half in (model.encoder, model.decoder):
        half.blocks[0].attn_ln.eps = 0.1


@disturbance(r"heads")
def other_number_of_heads(model):
    for half in (model.encoder, model.decoder):
        half.blocks[0].attn.n_head = 4


@disturbance(r"is a .*Doubled")
def tensor_subclass(model):
    class Doubled(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                out = func(*args, **(kwargs or {}))
            return 2 * out if func is nn.functional.linear else out

    for half in (model.encoder, model.decoder):
        query = half.blocks[0].attn.query
        weight = query.weight.detach().as_subclass(Doubled)
        del query._parameters["weight"]
        query._parameters["weight"] = weight


@disturbance(r"is a .*Wrapper")
def tensor_without_storage(model):
    """As quantized and distributed tensors are."""

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        def __init__(self, inner):
            self.inner = inner

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return func(*(a.inner * 2 if isinstance(a, Wrapper) else a for a in args), **(kwargs or {}))

    for half in (model.encoder, model.decoder):
        query = half.blocks[0].attn.query
        weight = Wrapper(query.weight.detach())
        del query._parameters["weight"]
        query._parameters["weight"] = weight


@disturbance(r"has the shape")
def other_shape(model):
    for half in (model.encoder, model.decoder):
        mlp = half.blocks[0].mlp
        mlp[0].weight = nn.Parameter(mlp[0].weight[:128].detach())
        mlp[0].bias = nn.Parameter(mlp[0].bias[:128].detach())
        mlp[2].weight = nn.Parameter(mlp[2].weight[:, :128].detach())


@disturbance(r"query.bias is missing")
def parameter_removed(model):
    for half in (model.encoder, model.decoder):
        half.blocks[0].attn.query.bias = None


@disturbance(r"subclass|SubBlock")
def subclass_of_a_block(model):
    class SubBlock(tm.ResidualAttentionBlock):
        def forward(self, x, *args, **kwargs):
            return super().forward(x, *args, **kwargs) + 1

    for half in (model.encoder, model.decoder):
        half.blocks[0].__class__ = SubBlock


@pytest.mark.parametrize("name", sorted(DISTURBANCES))
@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "used_before"])
def test_a_tree_that_is_not_plain_takes_the_python_path(model, mel, tokens, name, warm):
    disturb, reason = DISTURBANCES[name]
    plain = model(mel, tokens) if warm else None
    kept = disturb(model)
    with _engine.disable():
        wanted = model(mel, tokens)
    assert torch.equal(model(mel, tokens), wanted)
    if warm and name != "backward_hook":
        assert not torch.allclose(wanted, plain)
    assert _engine.explain(model).startswith("Python path: ")
    with (
        _engine.require(),
        pytest.raises(RuntimeError, match=f"the C\\+\\+ engine is required, but.*{reason}"),
    ):
        model(mel, tokens)
    with _engine.require(), pytest.raises(RuntimeError, match="the C\\+\\+ engine is required"):
        decode(model, mel, DecodingOptions(language="en", fp16=False))
    del kept


def test_the_engine_is_back_when_the_hook_is_gone(model, mel, tokens):
    plain = model(mel, tokens)
    hook = forward_hook(model)
    assert "conv1 has hooks" in _engine.explain(model)
    hook.remove()
    with _engine.require():
        assert torch.equal(model(mel, tokens), plain)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_hooks_of_the_halves_fire_around_the_engine(model, mel, tokens, name):
    seen = []
    getattr(model, name).register_forward_hook(lambda m, i, o: seen.append(o.shape))
    with _engine.require():
        model(mel, tokens)
    assert len(seen) == 1
    with _engine.require(), pytest.raises(RuntimeError, match="has hooks"):
        decode(model, mel, DecodingOptions(language="en", fp16=False))


def _vmapped(model, mel):
    return torch.func.vmap(model.encoder)(mel[:, None])[:, 0]


def _forward_mode(model, mel):
    # The fused attention has no forward-mode derivative.
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        x = forward_ad.make_dual(mel, torch.ones_like(mel))
        return forward_ad.unpack_dual(model.encoder(x)).primal


def _function_mode(model, mel):
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Mode.calls += 1
            return func(*args, **(kwargs or {}))

    with Mode():
        out = model.encoder(mel)
    assert Mode.calls > 10
    return out


def _dispatch_mode(model, mel):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        out = model.encoder(mel)
    assert counter.get_total_flops() > 0
    return out


def _global_hook(model, mel):
    seen = []
    hook = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(type(m)))
    try:
        out = model.encoder(mel)
    finally:
        hook.remove()
    assert tm.Conv1d in seen
    return out


def _traced(model, mel):
    traced = torch.jit.trace(model.encoder, mel, check_trace=False)
    assert "conv1" in str(traced.graph)
    return traced(mel)


def _compiled(model, mel):
    return torch.compile(model.encoder, backend="eager", fullgraph=True)(mel)


def _exported(model, mel):
    return torch.export.export(model.encoder, (mel,)).module()(mel)


def _functional_call(model, mel):
    return torch.func.functional_call(
        model.encoder, {n: p.detach().clone() for n, p in model.encoder.named_parameters()}, (mel,)
    )


def _without_sdpa(model, mel):
    with tm.disable_sdpa():
        return model.encoder(mel)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "call",
    [
        *(_vmapped, _forward_mode, _function_mode, _dispatch_mode, _global_hook),
        *(_traced, _compiled, _exported, _functional_call, _without_sdpa),
    ],
)
def test_circumstances_that_call_for_the_python_path(model, mel, call):
    with torch.no_grad():
        wanted = model.encoder(mel)
        got = call(model, mel)
    assert_close(got, wanted, rtol=0, atol=1e-5)
    with _engine.require(), pytest.raises(Exception, match=r"engine is required|[Uu]nsupported|[Rr]untime"):
        call(model, mel)


def test_autocast_is_honoured(model, mel, tokens):
    with _engine.disable(), torch.autocast("cpu", torch.bfloat16):
        features = model.encoder(mel)
        logits = model.logits(tokens, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encoder(mel), features)
        assert torch.equal(model.logits(tokens, features), logits)
        assert "C++ engine" in _engine.explain(model) and "autocast is on" in _engine.explain(model)
        with _engine.require():
            model.logits(tokens, model.encoder(mel))
            with torch.no_grad(), pytest.raises(RuntimeError, match="autocast is on"):
                model.encoder(mel)
    assert "autocast" not in _engine.explain(model)
    assert not torch.allclose(model.encoder(mel), features.float(), atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (tm.LayerNorm, "forward"),
        (tm.MultiHeadAttention, "qkv_attention"),
        (nn.GELU, "forward"),
        (tm.Linear, "forward"),
    ],
)
def test_a_patched_class_is_honoured(model, mel, monkeypatch, cls, name):
    plain = model.encoder(mel)
    original, calls = getattr(cls, name), []

    def patched(self, *args):
        calls.append(self)
        return original(self, *args)

    monkeypatch.setattr(cls, name, patched)
    assert torch.equal(model.encoder(mel), plain) and calls
    with _engine.require(), pytest.raises(RuntimeError, match="patched"):
        model.encoder(mel)


def test_a_patched_attention_function_is_honoured(model, mel, monkeypatch):
    calls = []

    def attention(*args, **kwargs):
        calls.append(args)
        return nn.functional.scaled_dot_product_attention(*args, **kwargs)

    monkeypatch.setattr(tm, "scaled_dot_product_attention", attention)
    model.encoder(mel)
    assert len(calls) == SMALL["n_audio_layer"]


@pytest.mark.parametrize(
    "name",
    [
        *("AudioEncoder", "TextDecoder", "ResidualAttentionBlock", "MultiHeadAttention"),
        *("LayerNorm", "Linear", "Conv1d"),
    ],
)
def test_a_class_under_a_name_of_ours_is_honoured(name):
    """Programs replace a class of the module before they build a model."""
    code = (
        "import sys, torchwhisper, torchwhisper.model as tm\n"
        "name = sys.argv[1]\n"
        "setattr(tm, name, type(name, (getattr(tm, name),), {}))\n"
        "print(torchwhisper.explain(torchwhisper.load_model('demo', device='cpu')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Python path: ") and name in done.stdout


def test_a_subclass_of_whisper_decodes_in_python(model, mel):
    class Mine(tm.Whisper):
        pass

    model.__class__ = Mine
    assert "Mine is a subclass of Whisper" in _engine.explain(model)
    with _engine.require():
        model.encoder(mel)  # its halves are plain
        with pytest.raises(RuntimeError, match="subclass"):
            decode(model, mel, DecodingOptions(language="en", fp16=False))


def test_parameters_on_two_devices(model):
    model.decoder.blocks[1].to("meta")
    assert "the parameters are on cpu and meta" in _engine.explain(model)


@pytest.mark.parametrize("warm", [False, True])
def test_what_no_forward_uses_is_no_obstacle(model, mel, tokens, warm):
    plain = model(mel, tokens) if warm else None
    model.encoder.blocks[0].attn.gain = nn.Parameter(torch.ones(1))
    model.decoder.note = "mine"
    with _engine.require():
        got = model(mel, tokens)
    assert plain is None or torch.equal(got, plain)


def test_a_default_device_is_no_obstacle(model, mel):
    plain = model.encoder(mel)
    with torch.device("cpu"), _engine.require():
        assert torch.equal(model.encoder(mel), plain)


def test_a_cache_of_the_callers_means_python(model, mel, tokens):
    features = model.encoder(mel)
    with _engine.require(), pytest.raises(RuntimeError, match="kv_cache"):
        model.decoder(tokens, features, kv_cache={})


def test_explain(model):
    assert _engine.explain(model) == "C++ engine: the modules are plain, on cpu, in torch.float32."
    model.decoder.half()
    assert "torch.float16 and torch.float32" in _engine.explain(model)
    assert _engine.explain(model.encoder).startswith("C++ engine")
    with _engine.disable():
        assert _engine.explain(model) == "Python path: the engine is switched off."
    assert "Linear is not" in _engine.explain(nn.Linear(1, 1))


def test_switches_nest(model, mel):
    with _engine.require():
        with _engine.disable():
            assert "switched off" in _engine.explain(model)
            with _engine.require():
                model.encoder(mel)
        with pytest.raises(RuntimeError, match="required"), tm.disable_sdpa():
            model.encoder(mel)
    with tm.disable_sdpa():
        model.encoder(mel)


@pytest.mark.parametrize(
    ("value", "output"), [("off", "off"), ("require", "require"), ("", "auto"), ("on", "ValueError")]
)
def test_environment_variable(value, output):
    env = {**os.environ, "TORCHWHISPER_ENGINE": value}
    code = "from torchwhisper import _engine; print(_engine._mode)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert output in done.stdout + done.stderr


def test_nothing_is_left_in_the_modules(model, mel, tokens):
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    model(mel, tokens)
    decode(model, mel, DecodingOptions(language="en", fp16=False, sample_len=2))
    assert {name: set(vars(m)) for name, m in model.named_modules()} == before


def test_a_model_whose_hooks_lead_back_to_it_is_freed(mel, tokens):
    def use() -> list[weakref.ref]:
        model = tm.Whisper(tm.ModelDimensions(**SMALL))
        for module in (model.decoder.blocks[0].attn.key, model.encoder):
            module.register_forward_hook(lambda *_: model and None).remove()
            module.register_state_dict_post_hook(lambda *_: model and None)
        with _engine.require():
            model(mel, tokens)
            decode(model, mel, DecodingOptions(language="en", fp16=False, sample_len=2))
        return [weakref.ref(m) for m in (model, model.encoder, model.decoder.blocks[0])]

    probes = use()
    gc.collect()
    assert [probe() for probe in probes] == [None] * 3


def test_a_copy_has_weights_of_its_own(model, mel, tokens):
    plain = model(mel, tokens)
    copied = copy.deepcopy(model)
    fill(copied, 99)
    with _engine.require():
        assert torch.equal(model(mel, tokens), plain)
        assert not torch.allclose(copied(mel, tokens), plain)


def test_a_session_checks_once(model, mel, monkeypatch):
    checks = []
    prepared_twin = _engine._prepared_twin
    monkeypatch.setattr(_engine, "_prepared_twin", lambda *a: checks.append(a) or prepared_twin(*a))
    options = DecodingOptions(language="en", fp16=False, sample_len=2)
    with _engine.session(model, torch.float32) as outer:
        decode(model, mel, options)
        with _engine.session(model, torch.float32) as inner:
            assert inner is outer
    assert len(checks) == 1
    decode(model, mel, options)
    with _engine.session(model, torch.float32) as again:
        assert again is outer
    assert len(checks) == 3


def test_a_session_on_the_python_path_gives_nothing(model):
    hook = forward_hook(model)
    with _engine.session(model, torch.float32) as engine:
        assert engine is None
    hook.remove()
    with _engine.session(model, torch.float32, reason="the caller has reasons") as engine:
        assert engine is None


def test_direct_calls_in_a_session_use_the_packed_weights_only_without_gradients(model, mel, tokens):
    with _engine.session(model, torch.float32) as engine, _engine.require():
        features = model.encoder(mel)
        assert features.requires_grad
        with torch.no_grad():
            assert torch.equal(model.encoder(mel), engine.embed_audio(mel, _engine._C.Control()))
            logits = engine.logits(tokens, features, _engine._C.Control())
            assert torch.equal(model.logits(tokens, features), logits)


def test_a_direct_call_of_the_encoder_can_be_stopped(model, mel):
    control = _engine._C.Control()
    control.cancel()
    call = _engine.encoder_for(model.encoder, mel)
    with pytest.raises(_engine._C.Cancelled):
        call(mel, control=control)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("prepared", [False, True])
def test_a_direct_call_of_the_decoder_can_be_stopped(model, mel, tokens, hidden, prepared):
    control = _engine._C.Control()
    control.cancel()
    with torch.no_grad(), _engine.session(model, torch.float32) if prepared else contextlib.nullcontext():
        features = model.encoder(mel)
        call = _engine.decoder_for(model.decoder, tokens, features, None, hidden)
        with pytest.raises(_engine._C.Cancelled):
            call(tokens, features, control=control)


def test_preparing_can_be_stopped(model, mel):
    control = _engine._C.Control()
    control.cancel()
    with _engine.session(model, torch.float32) as engine, torch.no_grad():
        features = model.encoder(mel)
        for call in (
            lambda: engine.remember(features, control),
            lambda: engine.prepare(torch.float32, "float32", control),
            lambda: engine.fingerprint(control),
        ):
            with pytest.raises(_engine._C.Cancelled):
                call()


def test_a_stale_twin_is_replaced_and_not_changed(model, mel):
    with torch.no_grad(), _engine.session(model, torch.float32) as old:
        before = old.embed_audio(mel, _engine._C.Control())
        model.encoder.blocks[0].mlp[0].weight.data.mul_(2)
        with _engine.session(model, torch.float32) as same:
            assert same is old
        with_old = old.embed_audio(mel, _engine._C.Control())
    with torch.no_grad(), _engine.session(model, torch.float32) as new:
        assert new is not old
        assert not torch.allclose(new.embed_audio(mel, _engine._C.Control()), before)
    assert torch.equal(with_old, before)


def test_replacing_a_parameter_ends_a_session_s_trust(model, mel):
    with torch.no_grad(), _engine.session(model, torch.float32) as old:
        weight = model.encoder.blocks[0].mlp[0].weight
        model.encoder.blocks[0].mlp[0].weight = nn.Parameter(2 * weight)
        with _engine.session(model, torch.float32) as new:
            assert new is not old


def test_threads_on_one_model_equal_a_serial_run(model):
    mels = [torch.randn(80, 120, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    options = [
        DecodingOptions(language="en", fp16=False, sample_len=12, beam_size=3 if i % 2 else None)
        for i in range(6)
    ]
    wanted = [decode(model, m, o).tokens for m, o in zip(mels, options, strict=True)]
    got: list[list[int] | None] = [None] * 6

    def work(i: int) -> None:
        got[i] = decode(model, mels[i], options[i]).tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    with _engine.require():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == wanted


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_around_the_engine(model, mel, use_reentrant):
    from torch.utils.checkpoint import checkpoint

    grads = []
    for run in (model.encoder, lambda x: checkpoint(model.encoder, x, use_reentrant=use_reentrant)):
        model.zero_grad()
        with _engine.require():
            run(mel.clone().requires_grad_()).square().mean().backward()
        grads.append([p.grad.clone() for p in model.encoder.parameters()])
    # The reentrant kind runs forward without gradients, where other kernels round otherwise.
    for got, want in zip(*grads, strict=True):
        assert_close(got, want, rtol=0, atol=(1e-5 if use_reentrant else 0) * want.abs().max().item())


def test_compiled_model_trains(model, mel, tokens):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    grads = []
    for m in (model, compiled):
        model.zero_grad()
        m(mel, tokens).square().mean().backward()
        grads.append(model.encoder.conv1.weight.grad.clone())
    assert_close(grads[1], grads[0])
