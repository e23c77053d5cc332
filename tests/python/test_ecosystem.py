"""What programs do to a model: adapters, compilation, conversion, subclasses; in both packages."""

import subprocess
import sys

import pytest
import torch
from conftest import SMALL, fill, make_pair
from torch import nn

import torchwhisper
import torchwhisper.model as tm
from torchwhisper import _engine, explain

SAMPLING = {"language": "en", "fp16": False, "sample_len": 8}


def decoded(package, model, mel, **options):
    return [r.tokens for r in package.root.decode(model, mel, **{**SAMPLING, **options})]


# --- subclasses -------------------------------------------------------------------------------------------


def untied(package, model):
    """A decoder with an output layer of its own, as whisper-timestamped makes it of some checkpoints."""

    class UntiedDecoder(package.model.TextDecoder):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.proj_out = nn.Linear(sizes[2], sizes[0], bias=False)

        def forward(self, x, xa, kv_cache=None):
            offset = next(iter(kv_cache.values())).shape[1] if kv_cache else 0
            x = self.token_embedding(x) + self.positional_embedding[offset : offset + x.shape[-1]]
            for block in self.blocks:
                x = block(x.to(xa.dtype), xa, mask=self.mask, kv_cache=kv_cache)
            return self.proj_out(self.ln(x)).float()

    dims = model.dims
    decoder = UntiedDecoder(
        dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer
    )
    decoder.load_state_dict(model.decoder.state_dict(), strict=False)
    decoder.proj_out.weight.data.copy_(model.decoder.token_embedding.weight.data.roll(3, dims=0))
    model.decoder = decoder
    return model


def test_a_subclass_of_the_decoder(package, small, mel):
    plain = decoded(package, small, mel)
    tied_to = decoded(package, untied(package, small), mel)
    assert tied_to != plain
    if not package.is_reference:
        assert "UntiedDecoder is not an encoder or decoder" in explain(small)
        (reference, _), options = make_pair(SMALL), {}
        whisper = type(package)("whisper")
        assert decoded(whisper, untied(whisper, reference), mel, **options) == tied_to


def customized(package, model, mel):
    """A task with a filter, a ranker and an inference of the caller's own."""
    d = package.decoding
    steps = []

    class Even(d.LogitFilter):
        def apply(self, logits, tokens):
            logits[:, 1:50257:2] = -torch.inf

    class Shortest(d.SequenceRanker):
        def rank(self, tokens, sum_logprobs):
            return [min(range(len(group)), key=lambda i: len(group[i])) for group in tokens]

    class Counting(d.PyTorchInference):
        def logits(self, tokens, audio_features):
            steps.append(tuple(tokens.shape))
            return super().logits(tokens, audio_features)

    class Task(d.DecodingTask):
        def __init__(self, model, options):
            super().__init__(model, options)
            self.inference = Counting(model, len(self.initial_tokens))
            self.decoder.inference = self.inference
            self.sequence_ranker = Shortest()
            self.logit_filters.append(Even())

    options = d.DecodingOptions(**SAMPLING, beam_size=2)
    return Task(model, options).run(mel[:1]), steps


def test_a_task_with_parts_of_ones_own(pair, mel):
    from conftest import Package

    (theirs, their_steps), (ours, our_steps) = (
        customized(Package(name), model, mel)
        for name, model in zip(("whisper", "torchwhisper"), pair, strict=True)
    )
    assert ours[0].tokens == theirs[0].tokens and our_steps == their_steps
    assert all(t % 2 == 0 or t >= 50257 for t in ours[0].tokens)


def test_a_subclass_of_the_model(package, mel):
    class Louder(package.model.Whisper):
        def embed_audio(self, mel):
            return super().embed_audio(2 * mel)

    model = Louder(package.model.ModelDimensions(**SMALL))
    fill(model, 0)
    plain = package.model.Whisper(model.dims)
    plain.load_state_dict(model.state_dict())
    assert torch.allclose(model.embed_audio(mel), plain.embed_audio(2 * mel), atol=1e-5)
    assert decoded(package, model, mel) == decoded(package, plain, mel)  # decode() calls the encoder
    if not package.is_reference:
        assert "Louder is a subclass of Whisper" in explain(model)


# --- whole models of the reference ------------------------------------------------------------------------


def test_a_model_that_openai_whisper_pickled(pair, compat, mel, tokens, tmp_path):
    """`torch.save(model)` names the classes; with the compat wheel those names lead here."""
    reference, _ = pair
    torch.save(
        {"model": reference, "mel": mel, "tokens": tokens, "logits": reference(mel, tokens)},
        tmp_path / "m.pt",
    )
    code = (
        "import sys, torch, torchwhisper\n"
        "saved = torch.load(sys.argv[1], weights_only=False)\n"
        "model = saved['model']\n"
        "assert type(model) is torchwhisper.Whisper\n"
        "assert torchwhisper.explain(model).startswith('C++ engine'), torchwhisper.explain(model)\n"
        "assert torch.allclose(model(saved['mel'], saved['tokens']), saved['logits'], atol=1e-4)\n"
        "assert model.alignment_heads.is_sparse\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.pt"], env=compat, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- conversion -------------------------------------------------------------------------------------------


@pytest.fixture
def swapping():
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.usefixtures("swapping")
class TestSwappedParameters:
    """torch then exchanges the insides of two tensors, which nobody else may hold."""

    def used(self, package, model, mel, tokens):
        decoded(package, model, mel)
        with torch.no_grad():
            model(mel, tokens)
        return model

    @pytest.mark.parametrize(
        "part",
        [
            *("", "encoder", "decoder", "encoder.conv1", "encoder.blocks.0", "decoder.blocks.0.mlp"),
            *("decoder.blocks.0.attn", "decoder.blocks.0.cross_attn.query", "decoder.ln"),
        ],
    )
    def test_half(self, package, small, mel, tokens, part):
        weight = next(small.get_submodule(part).parameters())
        self.used(package, small, mel, tokens).get_submodule(part).half()
        assert weight.dtype == torch.float16  # the same object, swapped in place
        if not package.is_reference and not part:
            assert small(mel.half(), tokens).isfinite().all()

    def test_load_state_dict(self, package, small, mel, tokens):
        other = package.model.Whisper(small.dims)
        fill(other, 1)
        wanted = decoded(package, other, mel)
        self.used(package, small, mel, tokens).load_state_dict(other.state_dict())
        assert decoded(package, small, mel) == wanted

    @pytest.mark.parametrize("part", ["", "decoder", "decoder.blocks.1.attn.key"])
    def test_load_state_dict_of_a_module_around_it(self, package, small, mel, tokens, part):
        around = nn.ModuleDict({"model": self.used(package, small, mel, tokens).get_submodule(part)})
        around.load_state_dict({name: tensor.clone() for name, tensor in around.state_dict().items()})
        around.half()
        assert {tensor.dtype for tensor in around.state_dict().values()} == {torch.float16}


def test_bfloat16_and_back(package, small, mel, tokens):
    rounded = small(mel, tokens)
    small.bfloat16().float()
    if not package.is_reference:
        assert explain(small).startswith("C++ engine")
    assert 0 < (small(mel, tokens) - rounded).abs().max() < 0.1 * rounded.abs().max()


# --- compilation ------------------------------------------------------------------------------------------


def shallow(package):
    model = package.model.Whisper(
        package.model.ModelDimensions(**{**SMALL, "n_audio_layer": 1, "n_text_layer": 1})
    )
    fill(model, 0)
    return model


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_encoder(package, mel, in_place):
    model = shallow(package)
    features, tokens = model.encoder(mel), decoded(package, model, mel)
    # Inductor takes long: once is enough.
    backend = "aot_eager" if in_place or package.is_reference else "inductor"
    if in_place:
        model.encoder.compile(backend=backend, fullgraph=True)
    else:
        model.encoder = torch.compile(model.encoder, backend=backend, fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(model.encoder(mel), features, atol=1e-4)
    assert decoded(package, model, mel) == tokens
    if not package.is_reference:
        assert ("the AudioEncoder is compiled" if in_place else "OptimizedModule") in explain(model)


# --- adapters ---------------------------------------------------------------------------------------------


class TestLora:
    peft = pytest.importorskip("peft")

    def adapted(self, package, small):
        torch.manual_seed(0)
        config = self.peft.LoraConfig(r=4, target_modules=["query", "value"], lora_dropout=0.0)
        return self.peft.get_peft_model(small, config)

    def trained(self, package, small, mel, tokens, steps=3):
        adapted = self.adapted(package, small)
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            logits = adapted(mel, tokens)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        return adapted

    def test_training_touches_the_adapters_alone(self, package, small, mel, tokens):
        before = {name: p.clone() for name, p in small.named_parameters()}
        adapted = self.trained(package, small, mel, tokens)
        trained = [name for name, p in adapted.named_parameters() if p.grad is not None]
        assert trained and all("lora_" in name for name in trained)
        whisper = adapted.base_model.model
        base = {
            name.replace(".base_layer", ""): p
            for name, p in whisper.named_parameters()
            if "lora_" not in name
        }
        assert all(torch.equal(base[name], p) for name, p in before.items())
        assert isinstance(whisper.encoder.blocks[0].attn.query.base_layer, package.model.Linear)

    def test_merging_brings_the_engine_back(self, package, small, mel, tokens):
        plain = decoded(package, small, mel)
        adapted = self.trained(package, small, mel, tokens)
        whisper = adapted.base_model.model
        tuned = decoded(package, whisper, mel)
        assert tuned != plain and decoded(package, adapted, mel) == tuned  # attributes reach the model
        if not package.is_reference:
            assert "blocks.0.attn.query is a peft.tuners.lora.layer.Linear" in explain(whisper)
        merged = adapted.merge_and_unload()
        assert merged is whisper and type(merged.encoder.blocks[0].attn.query) is package.model.Linear
        if package.is_reference:
            assert decoded(package, merged, mel) == tuned
        else:
            with _engine.require():
                assert decoded(package, merged, mel) == tuned
            assert explain(merged).startswith("C++ engine")

    def test_both_packages_learn_the_same(self, pair, mel, tokens):
        from conftest import Package

        weights = [
            {
                n: p
                for n, p in self.trained(Package(name), model, mel, tokens).named_parameters()
                if "lora_" in n
            }
            for name, model in zip(("whisper", "torchwhisper"), pair, strict=True)
        ]
        assert weights[0].keys() == weights[1].keys()
        for name, theirs in weights[0].items():
            assert torch.allclose(weights[1][name], theirs, atol=1e-4), name


def test_explain_of_a_part(small, package):
    if package.is_reference:
        assert not hasattr(package.root, "explain")
    else:
        assert torchwhisper.explain(small.encoder).startswith("C++ engine")
        assert "Conv1d is not an encoder or decoder" in torchwhisper.explain(small.encoder.conv1)
        assert tm.Conv1d is type(small.encoder.conv1)
