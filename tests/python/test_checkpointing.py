"""Activation checkpointing: the same gradients from less memory."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from conftest import SMALL, fill, make_pair
from torch import Tensor, nn

import torchwhisper
from torchwhisper import _engine

POLICIES = ("selective", "mlp", "block")
Gradients = dict[str, Tensor | None]


def loss_of(model: nn.Module, mel: Tensor, tokens: Tensor) -> Tensor:
    logits = model(mel, tokens)
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def gradients(model: nn.Module, mel: Tensor, tokens: Tensor) -> Gradients:
    model.zero_grad()
    loss_of(model, mel, tokens).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same(actual: Gradients, expected: Gradients, tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        got = actual[name]
        assert (got is None) == (want is None), name
        if got is not None and want is not None:
            largest = want.abs().max().item()
            assert largest > 0, name
            assert (got - want).abs().max().item() <= tolerance * largest, name


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_gradients_are_the_same(lane, model, mel, tokens, policy):
    expected = gradients(model, mel, tokens)
    model.enable_checkpointing(policy)
    assert_same(gradients(model, mel, tokens), expected, 0)


def test_gradients_of_an_encoder_are_the_same_to_the_last_bit(lane, model, mel, policy):
    def run() -> Gradients:
        model.zero_grad()
        model.encoder(mel).square().sum().backward()
        return {name: p.grad.clone() for name, p in model.encoder.named_parameters()}

    expected = run()
    model.enable_checkpointing(policy)
    assert_same(run(), expected, 0)


def test_the_result_is_the_same(lane, model, mel, tokens, policy):
    expected = model(mel, tokens)
    model.enable_checkpointing(policy)
    torch.testing.assert_close(model(mel, tokens), expected, rtol=0, atol=0)


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_gradients_equal_the_reference(mel, tokens, policy):
    reference, ours = make_pair(SMALL)
    ours.enable_checkpointing(policy)
    with _engine.require():
        found = gradients(ours, mel, tokens)
    assert_same(found, gradients(reference, mel, tokens), 1e-5)


@pytest.mark.parametrize(
    "frozen", ["encoder", "decoder", "attention", "all but one bias", "weights of norms"]
)
def test_frozen_parameters(lane, model, mel, tokens, policy, frozen):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            {
                "encoder": not name.startswith("encoder."),
                "decoder": not name.startswith("decoder."),
                "attention": "attn" not in name,
                "all but one bias": name == "encoder.blocks.0.mlp.0.bias",
                "weights of norms": "ln" not in name or name.endswith("bias"),
            }[frozen]
        )
    expected = gradients(model, mel, tokens)
    model.enable_checkpointing(policy)
    assert_same(gradients(model, mel, tokens), expected, 0)


def test_gradient_of_the_input(lane, model, mel, tokens, policy):
    mel.requires_grad_()
    loss_of(model, mel, tokens).backward()
    expected, mel.grad = mel.grad, None
    model.requires_grad_(False)
    model.enable_checkpointing(policy)
    loss_of(model, mel, tokens).backward()
    assert_same({"mel": mel.grad}, {"mel": expected}, 0)


@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16])
def test_autocast_is_restored(lane, model, mel, tokens, policy, features):
    """Backward runs outside of autocast, as it should, and yet computes again what was computed under it."""

    def run() -> Gradients:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            # A decoder may be given features of another type than autocast would choose.
            loss = nn.functional.cross_entropy(
                model.decoder(tokens, model.encoder(mel).to(features)).flatten(0, 1), tokens.flatten()
            )
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = run()
    model.enable_checkpointing(policy)
    assert_same(run(), expected, 0)


def test_autocast_is_as_exact_as_the_reference(mel, tokens):
    """Against gradients in float32: what each of the two rounds to bfloat16 differs."""
    reference, ours = make_pair(SMALL)
    exact = gradients(reference, mel, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = gradients(reference, mel, tokens)
        with _engine.require():
            found = gradients(ours, mel, tokens)

    def error(of: Gradients) -> float:
        pairs = [(of[name], want) for name, want in exact.items()]
        return max(float((got - want).abs().max() / want.abs().max()) for got, want in pairs)

    assert error(found) < 1.1 * error(theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_parameters(model, mel, tokens, policy, dtype):
    model.to(dtype)
    with _engine.require():
        expected = gradients(model, mel.to(dtype), tokens)
        model.enable_checkpointing(policy)
        assert_same(gradients(model, mel.to(dtype), tokens), expected, 0)


def test_accumulation(lane, model, mel, tokens, policy):
    def run() -> Gradients:
        model.zero_grad()
        for row in range(2):
            (loss_of(model, mel[row : row + 1], tokens[row : row + 1]) / 2).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = run()
    model.enable_checkpointing(policy)
    assert_same(run(), expected, 0)


def test_retained_graph_can_be_used_twice(model, mel, tokens, policy):
    model.enable_checkpointing(policy)
    with _engine.require():
        loss = loss_of(model, mel, tokens)
        first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        second = torch.autograd.grad(loss, list(model.parameters()))
    assert all(map(torch.equal, first, second))


def test_double_backward_is_refused(model, mel, tokens, policy):
    model.enable_checkpointing(policy)
    with _engine.require():
        loss = loss_of(model, mel, tokens)
        with pytest.raises(RuntimeError, match=r"first-order.*enable_checkpointing\(None\)"):
            torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        model.enable_checkpointing(None)
        torch.autograd.grad(loss_of(model, mel, tokens), list(model.parameters()), create_graph=True)


def test_weights_changed_before_backward_are_noticed(model, mel, tokens, policy):
    model.enable_checkpointing(policy)
    with _engine.require():
        loss = loss_of(model, mel, tokens)
        with torch.no_grad():
            model.encoder.blocks[0].mlp[0].weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("every", [1, 2])
def test_stochastic_depth_is_computed_again_with_the_same_draws(lane, model, mel, tokens, policy, every):
    mel, tokens = mel.repeat(4, 1, 1), tokens.repeat(4, 1)
    model.set_stochastic_depth(0.4)

    def run(seed: int) -> tuple[Gradients, Tensor]:
        torch.manual_seed(seed)
        found = gradients(model, mel, tokens)
        return found, torch.rand(1)

    expected, after = run(3)
    model.enable_checkpointing(policy, every=every)
    found, after_too = run(3)
    # Summed in another order: x + depth * (y - x) uses x twice.
    assert_same(found, expected, 1e-5)
    assert torch.equal(after, after_too)
    name = "encoder.blocks.0.mlp.0.weight"
    other = run(4)[0][name]
    assert other is not None and not torch.allclose(other, expected[name], rtol=1e-2)


def test_stochastic_depth_is_for_training(lane, model, mel, tokens):
    expected = model(mel, tokens)
    model.set_stochastic_depth(0.9)
    assert not torch.equal(model(mel, tokens), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(mel, tokens), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.eval()(mel, tokens), expected)


def test_stochastic_depth_scales_what_a_block_adds(lane, model):
    """By 0 or 1 / (1 - probability), so that it is the same on average."""
    n_state, decoder = SMALL["n_text_state"], model.decoder
    decoder.blocks = decoder.blocks[:1]
    with torch.no_grad():
        decoder.token_embedding.weight[:n_state].copy_(torch.eye(n_state))
    features, tokens = torch.ones(1, 4, n_state).expand(200, -1, -1), torch.full((200, 1), 3)
    model.set_stochastic_depth(0.6)
    kinds = torch.unique(decoder(tokens, features)[:, 0, :n_state].detach(), dim=0)

    with torch.no_grad():
        x = decoder.token_embedding(tokens[:1]) + decoder.positional_embedding[:1]
        added = decoder.blocks[0](x, features[:1], mask=decoder.mask) - x
        expected = [decoder.ln(x + scale * added)[0, 0] for scale in (0, 1 / 0.4)]
    assert len(kinds) == 2
    for want in expected:
        assert min((kind - want).abs().max() for kind in kinds) < 1e-4


def kept_bytes(model: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for a backward pass, each storage once, parameters left out."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = run()
    for parameter in model.parameters():
        storages.pop(parameter.data_ptr(), None)
    assert out.requires_grad
    return sum(storages.values())


def test_every_policy_keeps_less_than_the_one_before(mel):
    model = make_pair(SMALL)[1]
    kept = []
    for policy in (None, *POLICIES):
        model.enable_checkpointing(policy)
        with _engine.require():
            kept.append(kept_bytes(model, lambda: model.encoder(mel)))
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4, kept
    # What the model of memory says of a block, in units of batch x time x n_state: 16, 10, 6, 1.
    unit = 2 * SMALL["n_audio_ctx"] * SMALL["n_audio_state"] * 4
    per_block = [(k - kept[-1]) / unit / SMALL["n_audio_layer"] + 1 for k in kept]
    assert per_block == pytest.approx([16, 10, 6, 1], abs=0.6)


def test_every_nth_block(mel):
    model = make_pair(SMALL | {"n_audio_layer": 4})[1]
    kept = []
    for every in (1, 2, 4):
        model.enable_checkpointing("block", every=every)
        kept.append(kept_bytes(model, lambda: model.encoder(mel)))
    assert kept[0] < kept[1] < kept[2]


def test_it_acts_only_where_gradients_are_recorded(model, mel, tokens):
    model.enable_checkpointing("block")
    with _engine.require(), torch.no_grad():
        assert not model(mel, tokens).requires_grad
    assert model.training
    cache, hooks = model.install_kv_cache_hooks()
    features = model.encoder(mel)
    first = model.decoder(tokens[:, :4], features, kv_cache=cache)
    second = model.decoder(tokens[:, 4:5], features, kv_cache=cache)
    for hook in hooks:
        hook.remove()
    whole = model.decoder(tokens[:, :5], features)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-4, atol=1e-4)


def test_transcription_is_the_same(shared):
    audio = str(shared("audio/short_en_12s.flac"))
    model = torchwhisper.load_model("demo")
    assert model.training
    with _engine.require():
        expected = torchwhisper.transcribe(model, audio, temperature=0, language="en")
        model.enable_checkpointing("block")
        model.set_stochastic_depth(0.5)
        found = torchwhisper.transcribe(model, audio, temperature=0, language="en")
    assert [s["tokens"] for s in found["segments"]] == [s["tokens"] for s in expected["segments"]]


def test_copies_keep_the_setting(model, mel, tokens):
    model.enable_checkpointing("mlp", every=2)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.encoder.block_training == model.encoder.block_training
        assert copied.decoder.block_training.policy == "mlp"


def test_load_model_takes_the_policy():
    assert torchwhisper.load_model("demo", checkpointing="mlp").encoder.block_training.policy == "mlp"
    assert torchwhisper.load_model("demo").decoder.block_training.policy is None
    with pytest.raises(ValueError, match="policy is 'all'"):  # before a download
        torchwhisper.load_model("/no/such/model.pt", checkpointing="all")


def test_wrong_settings_are_refused(model):
    with pytest.raises(ValueError, match=r"'blocks'.*selective, mlp, block"):
        model.enable_checkpointing("blocks")
    with pytest.raises(ValueError, match="every is 0"):
        model.enable_checkpointing("block", every=0)
    with pytest.raises(ValueError, match=r"every is 1\.5, expected a whole number"):
        model.enable_checkpointing("block", every=1.5)
    with pytest.raises(ValueError, match="probability"):
        model.set_stochastic_depth(1.0)
    assert model.encoder.block_training.policy is None


@pytest.mark.parametrize("policy, calls", [(None, 1), ("selective", 2), ("mlp", 2), ("block", 2)])
def test_hooks_fire_again_on_the_python_path(mel, policy, calls):
    model = make_pair(SMALL)[1]
    seen = []
    model.encoder.blocks[1].mlp[1].register_forward_hook(lambda m, i, o: seen.append(o.shape))
    model.enable_checkpointing(policy)
    model.encoder(mel).square().sum().backward()
    assert len(seen) == calls


def test_one_text_for_many_recordings_and_the_reverse(lane, model, mel, tokens, policy):
    for mels, texts in ((mel, tokens[:1]), (mel[:1], tokens)):
        model.enable_checkpointing(None)
        model.zero_grad()
        model(mels, texts).square().mean().backward()
        expected = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.enable_checkpointing(policy)
        model.zero_grad()
        model(mels, texts).square().mean().backward()
        assert_same({name: p.grad for name, p in model.named_parameters()}, expected, 1e-6)


def test_a_model_filled_anew_is_followed(model, mel, tokens, policy):
    """The functions take the parameters of each call, not those of the first."""
    model.enable_checkpointing(policy)
    with _engine.require():
        gradients(model, mel, tokens)
        fill(model, 5)
        found = gradients(model, mel, tokens)
        model.enable_checkpointing(None)
        assert_same(found, gradients(model, mel, tokens), 0)
