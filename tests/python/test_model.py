"""The model's classes against the reference's, on the engine and on the Python path."""

import base64
import gzip
from dataclasses import asdict

import pytest
import torch
import whisper
from conftest import SMALL, fill, make_pair
from torch.testing import assert_close
from whisper import model as theirs

from torchwhisper import _engine
from torchwhisper import model as ours

TOLERANCE = 2e-6


def assert_near(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_outputs_equal_the_references(pair, lane, mel, tokens):
    reference, model = pair
    features = reference.encoder(mel)
    assert_near(model.embed_audio(mel), features)
    assert_near(model.encoder(mel), features)
    assert_near(model.logits(tokens, features), reference.logits(tokens, features))
    assert_near(model.decoder(tokens, features), reference.logits(tokens, features))
    assert_near(model(mel, tokens), reference(mel, tokens))


def test_int32_tokens_and_a_shorter_memory(pair, lane, mel, tokens):
    reference, model = pair
    features = reference.encoder(mel)[:, :17]
    assert_near(model.logits(tokens.int(), features), reference.logits(tokens.int(), features))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_input_on_float_parameters(pair, lane, mel, tokens, dtype):
    reference, model = pair
    with torch.no_grad():
        features = reference.encoder(mel.to(dtype))
        got = model.encoder(mel.to(dtype))
        assert got.dtype == dtype
        assert_close(
            got.float(), features.float(), rtol=0, atol=4 * torch.finfo(dtype).eps * features.abs().max()
        )
        logits = reference.logits(tokens, features)
        got = model.logits(tokens, features)
    assert got.dtype == torch.float32
    assert_close(got, logits, rtol=0, atol=4 * torch.finfo(dtype).eps * logits.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_parameters(pair, lane, mel, tokens, dtype):
    """The reference's LayerNorm fails here; the float model is the yardstick."""
    reference, model = pair
    model = model.to(dtype)
    with torch.no_grad():
        logits = reference(mel, tokens)
        got = model(mel.to(dtype), tokens)
    # Weights, positions and activations are all rounded.
    assert (got - logits).abs().max() <= 30 * torch.finfo(dtype).eps * logits.abs().max()


def test_gradients_equal_the_references(pair, lane, mel, tokens):
    reference, model = pair
    for m in pair:
        m(mel, tokens).log_softmax(dim=-1)[..., :50].mean().backward()
    for (name, p), q in zip(reference.named_parameters(), model.parameters(), strict=True):
        assert_close(q.grad, p.grad, rtol=0, atol=1e-5 * p.grad.abs().max().item(), msg=name)


def test_gradients_of_the_inputs(pair, lane, mel, tokens):
    grads = []
    for m in pair:
        x = mel.clone().requires_grad_()
        m(x, tokens)[..., :50].square().sum().backward()
        grads.append(x.grad)
    assert_near(grads[1], grads[0])


@pytest.mark.parametrize("frames", [2, 118, 122, 3000])
def test_wrong_number_of_frames(model, lane, frames):
    with pytest.raises(AssertionError, match="incorrect audio shape"):
        model.encoder(torch.zeros(1, SMALL["n_mels"], frames))


def test_one_frame_less_is_taken_as_the_reference_does(pair, lane, mel):
    reference, model = pair
    assert_near(model.encoder(mel[..., :-1]), reference.encoder(mel[..., :-1]))


def test_wrong_number_of_mels(model, lane, mel):
    with pytest.raises((RuntimeError, ValueError), match="80"):
        model.encoder(mel[:, :79])


def test_token_that_is_not_in_the_vocabulary(model, lane, mel):
    features = model.encoder(mel[:1])
    with pytest.raises(IndexError):
        model.logits(torch.tensor([[SMALL["n_vocab"]]]), features)


def test_more_tokens_than_the_context(model, lane, mel):
    features = model.encoder(mel[:1])
    with pytest.raises((RuntimeError, ValueError)):
        model.logits(torch.zeros(1, SMALL["n_text_ctx"] + 1, dtype=torch.long), features)


@pytest.mark.parametrize(("length", "channels"), [(1500, 384), (1500, 1280), (60, 64), (1, 4)])
def test_sinusoids(length, channels):
    assert torch.equal(ours.sinusoids(length, channels), theirs.sinusoids(length, channels))


def test_sinusoids_needs_an_even_number_of_channels():
    with pytest.raises(AssertionError):
        ours.sinusoids(10, 5)


def test_fresh_model_is_defined():
    model = ours.Whisper(ours.ModelDimensions(**SMALL))
    assert torch.equal(model.decoder.positional_embedding, torch.zeros(32, 64))
    mask = model.decoder.mask
    assert torch.equal(mask, theirs.Whisper(theirs.ModelDimensions(**SMALL)).decoder.mask)
    assert "decoder.mask" not in model.state_dict()
    assert model.to(torch.float64).decoder.mask.dtype == torch.float64


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
def test_languages(n_vocab):
    for module in (ours, theirs):
        dims = module.ModelDimensions(**{**SMALL, "n_vocab": n_vocab})
        with torch.device("meta"):
            model = module.Whisper.__new__(module.Whisper)
            torch.nn.Module.__init__(model)
        model.dims = dims
        wanted = {51864: (False, 99), 51865: (True, 99), 51866: (True, 100)}[n_vocab]
        assert (model.is_multilingual, model.num_languages) == wanted


def test_dimensions_are_a_plain_dataclass():
    assert list(asdict(ours.ModelDimensions(**SMALL))) == list(asdict(theirs.ModelDimensions(**SMALL)))
    assert ours.ModelDimensions(**SMALL).__dict__ == SMALL


def test_default_alignment_heads(pair):
    reference, model = pair
    assert model.alignment_heads.is_sparse and model.alignment_heads.dtype == torch.bool
    assert torch.equal(model.alignment_heads.indices(), reference.alignment_heads.indices())
    assert "alignment_heads" not in model.state_dict()


def test_set_alignment_heads(pair):
    flags = bytes([0, 1, 1, 0])
    for m in pair:
        m.set_alignment_heads(base64.b85encode(gzip.compress(flags)))
    assert pair[1].alignment_heads.is_sparse
    assert pair[1].alignment_heads.to_dense().tolist() == [[False, True], [True, False]]
    assert torch.equal(pair[1].alignment_heads.indices(), pair[0].alignment_heads.indices())


@pytest.mark.parametrize(
    "dump",
    [b"\x00", base64.b85encode(b"not gzip"), base64.b85encode(gzip.compress(b"123"))],
    ids=["no base 85", "no gzip", "of another size"],
)
def test_bad_alignment_heads_raise_what_the_reference_raises(pair, dump):
    with pytest.raises(Exception) as wanted:
        pair[0].set_alignment_heads(dump)
    with pytest.raises(type(wanted.value)):
        pair[1].set_alignment_heads(dump)


def test_attention_scores_without_sdpa(pair, mel, tokens):
    reference, model = pair
    features = reference.encoder(mel)
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(3))
    for args in ((x, features), (x, None, model.decoder.mask)):
        assert model.decoder.blocks[0].cross_attn(*args)[1] is None
        with theirs.disable_sdpa(), ours.disable_sdpa():
            wanted, wanted_qk = reference.decoder.blocks[0].cross_attn(*args)
            got, qk = model.decoder.blocks[0].cross_attn(*args)
        assert qk.dtype == torch.float32 and not qk.requires_grad
        assert torch.equal(qk, wanted_qk) and torch.equal(got, wanted)
    assert ours.MultiHeadAttention.use_sdpa is True


def test_disable_sdpa_restores_after_an_error():
    with pytest.raises(KeyError), ours.disable_sdpa():
        assert ours.MultiHeadAttention.use_sdpa is False
        raise KeyError
    assert ours.MultiHeadAttention.use_sdpa is True


def test_kv_cache_hooks_step_by_step(pair, mel, tokens):
    features = pair[0].encoder(mel)
    steps = []
    for m in pair:
        cache, hooks = m.install_kv_cache_hooks()
        logits = [m.decoder(tokens[:, :4], features, kv_cache=cache)]
        logits += [m.decoder(tokens[:, i : i + 1], features, kv_cache=cache) for i in range(4, 9)]
        assert len(hooks) == 8 and len(cache) == 8
        assert next(iter(cache)) is m.decoder.blocks[0].attn.key
        for hook in hooks:
            hook.remove()
        steps.append(torch.cat(logits, dim=1))
    assert torch.equal(*steps)
    assert_near(steps[1], pair[1].logits(tokens, features))


def test_kv_cache_hooks_copy_the_given_cache(model):
    given = {model.decoder.blocks[0].attn.key: torch.zeros(1)}
    cache, hooks = model.install_kv_cache_hooks(given)
    assert cache == given and cache is not given
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("n_mels", [80, 128])
def test_encoder_without_its_model(n_mels, lane):
    reference, model = make_pair({**SMALL, "n_mels": n_mels}, seed=5)
    encoder = model.encoder
    del model
    mel = torch.randn(1, n_mels, 120, generator=torch.Generator().manual_seed(1))
    assert_near(encoder(mel), reference.encoder(mel))


def test_public_names():
    assert (
        not {n for n in vars(theirs) if not n.startswith("_")}
        - set(vars(ours))
        - {*("Dict", "Iterable", "Optional", "Tuple")}
    )
    assert ours.Whisper.decode is ours.decode_function
    assert ours.Whisper.transcribe is ours.transcribe_function
    assert ours.Whisper.detect_language is ours.detect_language_function


def test_fill_sets_everything():
    """The parity tests stand on it: no parameter may keep what its constructor gave it."""
    model = ours.Whisper(ours.ModelDimensions(**SMALL))
    before = {n: p.clone() for n, p in model.named_parameters()}
    fill(model, 3)
    assert not [n for n, p in model.named_parameters() if torch.equal(p, before[n])]


def test_double_parameters(pair, mel, tokens):
    """The reference fails in LayerNorm; here everything but LayerNorm and logits is float64."""
    with _engine.disable():
        wanted = pair[0](mel, tokens)
        got = pair[1].double()(mel.double(), tokens)
    assert got.dtype == torch.float32
    assert_close(got, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_reference_is_the_pinned_one():
    assert whisper.__version__ == "20250625"
