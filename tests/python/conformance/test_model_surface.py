"""The classes of whisper.model as other programs use them."""

import base64
import binascii
import copy
import dataclasses
import gzip
import inspect
import pickle

import numpy as np
import pytest
import torch
from conftest import SMALL
from torch import nn


def test_dimensions_are_a_plain_dataclass(package):
    cls = package.model.ModelDimensions
    assert [field.name for field in dataclasses.fields(cls)] == list(SMALL)
    dims = cls(*SMALL.values())
    assert dims.__dict__ == dataclasses.asdict(dims) == SMALL
    assert cls(**dims.__dict__) == dims == pickle.loads(pickle.dumps(dims))
    dims.n_mels = 128  # not frozen


def test_methods_of_whisper_are_the_functions(package):
    cls = package.model.Whisper
    assert cls.transcribe is package.root.transcribe is package.model.transcribe_function
    assert cls.decode is package.root.decode is package.model.decode_function
    assert cls.detect_language is package.root.detect_language is package.model.detect_language_function


def test_attributes_of_a_model(package, small):
    assert list(vars(small)["_modules"]) == ["encoder", "decoder"]
    assert small.dims == package.model.ModelDimensions(**SMALL)
    assert small.device == small.encoder.conv1.weight.device
    assert next(small.parameters()) is small.encoder.conv1.weight
    assert small.training and all(p.requires_grad for p in small.parameters())


@pytest.mark.parametrize(
    ("n_vocab", "multilingual", "languages"), [(51864, 0, 99), (51865, 1, 99), (51866, 1, 100)]
)
def test_languages_by_vocabulary(package, n_vocab, multilingual, languages):
    model = package.model.Whisper(package.model.ModelDimensions(**{**SMALL, "n_vocab": n_vocab}))
    assert (model.is_multilingual, model.num_languages) == (bool(multilingual), languages)


def test_the_tree_of_modules(package, small):
    m = package.model
    assert list(dict(small.encoder.named_children())) == ["conv1", "conv2", "blocks", "ln_post"]
    assert list(dict(small.decoder.named_children())) == ["token_embedding", "blocks", "ln"]
    assert type(small.encoder.conv1) is m.Conv1d and issubclass(m.Conv1d, nn.Conv1d)
    assert type(small.encoder.ln_post) is m.LayerNorm and issubclass(m.LayerNorm, nn.LayerNorm)
    for block, cross in ((small.encoder.blocks[0], False), (small.decoder.blocks[0], True)):
        assert type(block) is m.ResidualAttentionBlock
        assert type(block.attn) is m.MultiHeadAttention and block.attn.n_head == 2
        assert (block.cross_attn is not None) == (block.cross_attn_ln is not None) == cross
        assert list(dict(block.attn.named_children())) == ["query", "key", "value", "out"]
        assert type(block.attn.query) is m.Linear and issubclass(m.Linear, nn.Linear)
        assert block.attn.key.bias is None and block.attn.value.bias is not None
        assert [type(layer).__name__ for layer in block.mlp] == ["Linear", "GELU", "Linear"]
        assert type(block.mlp) is nn.Sequential and block.mlp[1].approximate == "none"
        assert block.attn_ln.eps == block.mlp_ln.eps == 1e-5


@pytest.mark.parametrize(
    ("audio_layers", "text_layers", "keys"),
    [(4, 4, 167), (6, 6, 245), (12, 12, 479), (24, 24, 947), (32, 32, 1259), (32, 4, 587)],
)
def test_number_of_tensors_in_a_checkpoint(package, audio_layers, text_layers, keys):
    narrow = {
        "n_audio_state": 4,
        "n_text_state": 4,
        "n_audio_layer": audio_layers,
        "n_text_layer": text_layers,
    }
    model = package.model.Whisper(package.model.ModelDimensions(**{**SMALL, **narrow, "n_vocab": 8}))
    assert len(model.state_dict()) == keys == 7 + 15 * audio_layers + 4 + 24 * text_layers


def test_buffers(small):
    state = small.state_dict()
    assert "encoder.positional_embedding" in state
    assert {name for name, _ in small.named_buffers()} == {
        *("alignment_heads", "encoder.positional_embedding", "decoder.mask")
    }
    assert "decoder.mask" not in state and "alignment_heads" not in state
    mask = small.decoder.mask
    assert torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))


def test_order_of_parameters(small):
    """Optimizers number them: a resumed one depends on it."""
    names = [name for name, _ in small.named_parameters() if name.startswith("decoder")]
    assert names[:2] == ["decoder.positional_embedding", "decoder.token_embedding.weight"]


def test_the_output_head_is_the_embedding(small, mel, tokens):
    features = small.embed_audio(mel)
    last = []
    small.decoder.ln.register_forward_hook(lambda _, __, out: last.append(out))
    logits = small.logits(tokens, features)
    assert torch.allclose(logits, last[0] @ small.decoder.token_embedding.weight.T, atol=1e-4)


def test_forward_gives_the_logits(small, mel, tokens):
    logits = small(mel, tokens)
    assert logits.shape == (2, 9, SMALL["n_vocab"]) and logits.dtype == torch.float32
    assert torch.allclose(logits, small.logits(tokens, small.embed_audio(mel)), atol=1e-5)


def test_alignment_heads_are_sparse(small):
    heads = small.alignment_heads
    assert heads.is_sparse and heads.dtype == torch.bool
    assert heads.indices().T.tolist() == [[1, 0], [1, 1]]  # the upper half


def test_alignment_heads_that_a_program_registers(package, small):
    """The reference's buffer is sparse, which DistributedDataParallel and Apple's devices refuse."""
    heads = torch.tensor([[False, True], [False, False]])
    small.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    assert small.alignment_heads.indices().T.tolist() == [[0, 1]]
    assert any(buffer.is_sparse for buffer in small.buffers()) == package.is_reference


def test_set_alignment_heads(small):
    dump = base64.b85encode(gzip.compress(np.array([[0, 1], [1, 0]], dtype=bool).tobytes()))
    small.set_alignment_heads(dump)
    assert small.alignment_heads.indices().T.tolist() == [[0, 1], [1, 0]]
    assert "alignment_heads" not in small.state_dict()


@pytest.mark.parametrize(
    ("dump", "error"),
    [
        (b"not base 85: \x80", ValueError),
        (base64.b85encode(b"no gzip"), gzip.BadGzipFile),
        (base64.b85encode(gzip.compress(b"\1\0\1")), RuntimeError),
    ],
    ids=["no base 85", "no gzip", "of another size"],  # gzip writes the time of day, which no name may have
)
def test_bad_alignment_heads(small, dump, error):
    with pytest.raises((error, binascii.Error)):
        small.set_alignment_heads(dump)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layers_compute_in_the_dtype_of_their_input(package, dtype):
    x = torch.randn(2, 8, dtype=dtype)
    assert package.model.Linear(8, 4)(x).dtype == dtype
    assert package.model.Conv1d(2, 4, 3)(x).dtype == dtype
    norm = package.model.LayerNorm(8)
    assert torch.equal(norm(x), nn.LayerNorm(8)(x.float()).to(dtype))


def test_attention_scores(package):
    attention = package.model.MultiHeadAttention(8, 2)
    x, mask = torch.randn(3, 5, 8), torch.full((9, 9), -torch.inf).triu(1)
    out, scores = attention(x, mask=mask)
    assert scores is None
    with package.model.disable_sdpa():
        explicit, scores = attention(x, mask=mask)
    assert torch.allclose(out, explicit, atol=1e-6)
    assert scores.shape == (3, 2, 5, 5) and scores.dtype == torch.float32
    assert not scores.requires_grad
    assert torch.isinf(scores[0, 0]).equal(torch.ones(5, 5).triu(1).bool())


def test_scores_are_those_before_the_softmax(package):
    attention = package.model.MultiHeadAttention(8, 2)
    x, memory = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    with package.model.disable_sdpa():
        out, scores = attention(x, memory)
    query, key, value = attention.query(x), attention.key(memory), attention.value(memory)
    split = lambda t: t.unflatten(2, (2, 4)).transpose(1, 2)  # noqa: E731
    wanted = split(query) @ split(key).mT / 2  # the root of 4 numbers per head
    assert torch.allclose(scores, wanted, atol=1e-6)
    mixed = (wanted.softmax(-1) @ split(value)).transpose(1, 2).flatten(2)
    assert torch.allclose(out, attention.out(mixed), atol=1e-6)


def test_with_sdpa_only_the_presence_of_the_mask_counts(package):
    attention = package.model.MultiHeadAttention(8, 2)
    x = torch.randn(1, 5, 8)
    causal = attention(x, mask=torch.full((5, 5), -torch.inf).triu(1))[0]
    assert torch.equal(attention(x, mask=torch.zeros(5, 5))[0], causal)
    assert not torch.allclose(attention(x)[0], causal)


def test_disable_sdpa_acts_on_the_class(package):
    cls = package.model.MultiHeadAttention
    assert package.model.SDPA_AVAILABLE is True and cls.use_sdpa is True
    with pytest.raises(KeyError), package.model.disable_sdpa():
        assert cls.use_sdpa is False
        raise KeyError
    assert cls.use_sdpa is True


def test_use_sdpa_can_be_set_by_hand(package, small, mel, tokens, monkeypatch):
    seen = []
    for block in small.decoder.blocks:
        block.cross_attn.register_forward_hook(lambda _, __, out: seen.append(out[1]))
    monkeypatch.setattr(package.model.MultiHeadAttention, "use_sdpa", False)
    small(mel, tokens)
    assert [scores.shape for scores in seen] == [(2, 2, 9, 60)] * 2


class TestKvCacheHooks:
    def test_the_given_dictionary_is_copied(self, small):
        given: dict = {}
        cache, hooks = small.install_kv_cache_hooks(given)
        assert cache == {} and cache is not given
        assert len(hooks) == 2 * 2 * 2  # key and value of both attentions in two blocks
        for hook in hooks:
            hook.remove()

    def test_keys_are_modules_in_the_order_of_use(self, small, mel):
        cache, hooks = small.install_kv_cache_hooks()
        features = small.embed_audio(mel)
        small.decoder(torch.zeros(2, 3, dtype=torch.long), features, kv_cache=cache)
        first, second = small.decoder.blocks
        modules = [m for b in (first, second) for a in (b.attn, b.cross_attn) for m in (a.key, a.value)]
        assert list(cache) == modules
        assert cache[first.attn.key].shape == (2, 3, 64)
        assert cache[first.cross_attn.key].shape == (2, 60, 64)
        for hook in hooks:
            hook.remove()
        small.decoder(torch.zeros(2, 4, dtype=torch.long), features)
        assert cache[first.attn.key].shape == (2, 3, 64)  # the hooks are gone

    def test_steps_give_what_one_call_gives(self, small, mel, tokens):
        features = small.embed_audio(mel)
        whole = small.logits(tokens, features)
        cache, hooks = small.install_kv_cache_hooks()
        steps = [small.decoder(tokens[:, :4], features, kv_cache=cache)]
        cross = cache[small.decoder.blocks[0].cross_attn.key]
        for i in range(4, 9):
            steps.append(small.decoder(tokens[:, i : i + 1], features, kv_cache=cache))
        assert torch.allclose(torch.cat(steps, dim=1), whole, atol=1e-4)
        assert cache[small.decoder.blocks[1].attn.value].shape == (2, 9, 64)
        assert not cache[small.decoder.blocks[1].attn.value].requires_grad  # from the second step on
        assert cache[small.decoder.blocks[0].cross_attn.key] is cross
        for hook in hooks:
            hook.remove()

    def test_a_given_cache_is_gone_on_with(self, small, mel, tokens):
        features = small.embed_audio(mel)
        whole = small.logits(tokens, features)
        cache, hooks = small.install_kv_cache_hooks()
        small.decoder(tokens[:, :8], features, kv_cache=cache)
        for hook in hooks:
            hook.remove()
        again, hooks = small.install_kv_cache_hooks(cache)
        last = small.decoder(tokens[:, 8:], features, kv_cache=again)
        for hook in hooks:
            hook.remove()
        key = small.decoder.blocks[0].attn.key
        assert torch.allclose(last, whole[:, 8:], atol=1e-4)
        assert (cache[key].shape[1], again[key].shape[1]) == (8, 9)  # the given one stays as it was

    def test_outputs_longer_than_the_context_replace_what_is_kept(self, small):
        """Which is how the hooks tell the memory of cross-attention from tokens."""
        cache, hooks = small.install_kv_cache_hooks()
        key = small.decoder.blocks[0].attn.key
        outputs = [key(torch.randn(1, n, 64)) for n in (2, 3, 33, 40)]
        assert [output.shape[1] for output in outputs] == [2, 5, 33, 40]  # n_text_ctx is 32
        assert cache[key] is outputs[-1]
        for hook in hooks:
            hook.remove()

    def test_the_first_entry_tells_the_position(self, small, mel, tokens):
        """In the reference's words: `next(iter(kv_cache.values())).shape[1]`."""
        features = small.embed_audio(mel)
        seen = []
        hook = small.decoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        small.decoder(tokens[:, :1], features, kv_cache={"anything": torch.zeros(2, 5, 64)})
        hook.remove()
        decoder = small.decoder
        wanted = decoder.token_embedding(tokens[:, :1]) + decoder.positional_embedding[5:6]
        assert torch.allclose(seen[0], wanted, atol=1e-6)

    def test_memory_is_projected_unless_it_is_kept(self, small, mel, tokens):
        features = small.embed_audio(mel)
        cross = small.decoder.blocks[1].cross_attn
        counted = []
        counting = cross.value.register_forward_hook(lambda *_: counted.append(1))
        cache, hooks = small.install_kv_cache_hooks()
        small.decoder(tokens[:, :1], features, kv_cache=cache)
        small.decoder(tokens[:, 1:2], features, kv_cache=cache)
        assert len(counted) == 1
        del cache[cross.key]  # the key alone decides
        small.decoder(tokens[:, 2:3], features, kv_cache=cache)
        assert len(counted) == 2
        for hook in (*hooks, counting):
            hook.remove()

    def test_several_tokens_after_the_first_step_are_attended_wrongly(self, pair, mel, tokens):
        """`is_causal` counts from the top left; programs must not do this, and find the same here."""
        found = []
        for model in pair:
            features = model.embed_audio(mel)
            cache, hooks = model.install_kv_cache_hooks()
            model.decoder(tokens[:, :4], features, kv_cache=cache)
            found.append(model.decoder(tokens[:, 4:], features, kv_cache=cache))
            for hook in hooks:
                hook.remove()
        assert torch.allclose(*found, atol=1e-4)
        assert not torch.allclose(
            found[0], pair[0].logits(tokens, pair[0].embed_audio(mel))[:, 4:], atol=1e-2
        )


HOOKED = (
    "encoder.conv1",
    "decoder.token_embedding",
    "decoder.ln",
    *(f"decoder.blocks.{i}.cross_attn" for i in (0, 1)),
)


@pytest.mark.parametrize("sdpa", [True, False])
def test_hooks_fire_in_decode(package, small, mel, sdpa):
    """As whisper-timestamped sets them."""
    counts: dict[str, int] = dict.fromkeys(HOOKED, 0)
    shapes = []

    def note(name):
        def hook(module, inputs, output):
            counts[name] += 1
            if "cross_attn" in name:
                assert len(output) == 2 and (output[1] is None) == sdpa
            elif name == "decoder.token_embedding":
                shapes.append(tuple(inputs[0].shape))

        return hook

    for name in HOOKED:
        small.get_submodule(name).register_forward_hook(note(name))
    options = package.decoding.DecodingOptions(language="en", fp16=False, sample_len=4)
    if sdpa:
        package.root.decode(small, mel, options)
    else:
        with package.model.disable_sdpa():
            package.root.decode(small, mel, options)
    assert counts == {name: 1 if name == "encoder.conv1" else 4 for name in HOOKED}
    assert shapes == [(2, 3), (2, 1), (2, 1), (2, 1)]


def test_half_parameters(package, small, mel, tokens):
    """The reference feeds LayerNorm float32 input with half weights."""
    half = copy.deepcopy(small).half()
    if package.is_reference:
        with pytest.raises(RuntimeError, match="scalar type"):
            half(mel.half(), tokens)
    else:
        wanted = small(mel, tokens)
        assert (half(mel.half(), tokens) - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_moving_and_switching(small):
    assert small.eval() is small and not small.decoder.training
    assert small.train() is small and small.encoder.training
    assert {t.dtype for t in small.bfloat16().state_dict().values()} == {torch.bfloat16}
    assert small.float().requires_grad_(False) is small
    assert not any(p.requires_grad for p in small.parameters())
    seen = []
    small.apply(seen.append)
    assert len(seen) == len(dict(small.named_modules()))
    assert "decoder.blocks.1.cross_attn.value" in dict(small.named_modules())


def test_load_state_dict_is_strict(small):
    state = small.state_dict()
    state["decoder.lm_head.weight"] = state.pop("decoder.ln.bias")
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*decoder.ln.bias.*Unexpected key.*lm_head"):
        small.load_state_dict(state)


def test_signatures_of_forward(package):
    m = package.model
    assert list(inspect.signature(m.MultiHeadAttention.forward).parameters) == [
        "self",
        "x",
        "xa",
        "mask",
        "kv_cache",
    ]
    assert list(inspect.signature(m.TextDecoder.forward).parameters) == ["self", "x", "xa", "kv_cache"]
    assert list(inspect.signature(m.AudioEncoder).parameters) == [
        "n_mels",
        "n_ctx",
        "n_state",
        "n_head",
        "n_layer",
    ]
    assert list(inspect.signature(m.TextDecoder).parameters) == [
        "n_vocab",
        "n_ctx",
        "n_state",
        "n_head",
        "n_layer",
    ]


def test_wrong_number_of_frames(small, mel):
    with pytest.raises(AssertionError, match="incorrect audio shape"):
        small.encoder(mel[..., :100])
