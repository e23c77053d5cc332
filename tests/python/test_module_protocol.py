"""What PyTorch's ecosystem expects of a module tree, and what tools for openai-whisper expect of this one."""

import copy
import io
import pickle
from dataclasses import asdict

import pytest
import torch
import whisper
from conftest import SMALL
from torch import nn

import torchwhisper.model as tm
from torchwhisper import _engine
from torchwhisper.decoding import DecodingOptions, decode

OPTIONS = DecodingOptions(language="en", fp16=False, sample_len=6)


def test_state_dict_keys_and_order(pair):
    reference, model = pair
    assert list(model.state_dict()) == list(reference.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in reference.named_parameters()]
    assert [n for n, _ in model.named_buffers()] == [n for n, _ in reference.named_buffers()]
    assert [n for n, _ in model.named_modules()] == [n for n, _ in reference.named_modules()]


def test_state_dict_goes_both_ways(pair, mel, tokens):
    reference, model = pair
    for p in model.parameters():
        p.data.mul_(1.25)
    reference.load_state_dict(model.state_dict())
    with _engine.disable():
        assert torch.equal(model(mel, tokens), reference(mel, tokens))
    other = tm.Whisper(model.dims)
    other.load_state_dict(reference.state_dict())
    assert torch.equal(other(mel, tokens), model(mel, tokens))


def test_checkpoint_idiom(model, mel, tokens):
    file = io.BytesIO()
    torch.save({"dims": model.dims.__dict__, "model_state_dict": model.state_dict()}, file)
    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    reference = whisper.model.Whisper(whisper.model.ModelDimensions(**checkpoint["dims"]))
    reference.load_state_dict(checkpoint["model_state_dict"])
    assert asdict(reference.dims) == asdict(model.dims) == SMALL


@pytest.mark.parametrize("used", [False, True])
def test_copies(model, mel, tokens, used):
    if used:
        decode(model, mel, OPTIONS)
    wanted = model(mel, tokens)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ]
    for copied in copies:
        assert type(copied) is tm.Whisper
        assert torch.equal(copied.alignment_heads.to_dense(), model.alignment_heads.to_dense())
        assert torch.equal(copied.decoder.mask, model.decoder.mask)
        with _engine.require():
            assert torch.equal(copied(mel, tokens), wanted)


def test_hooks_that_tools_set_fire_in_decode(model, mel):
    fired: dict[str, int] = {}

    def count(name):
        def hook(module, inputs, output):
            fired[name] = fired.get(name, 0) + 1
            if "cross_attn" in name:
                out, qk = output
                assert out.shape[-1] == 64 and qk.shape[1] == 2

        return hook

    wanted = [r.tokens for r in decode(model, mel, OPTIONS)]
    names = ["encoder.conv1", "decoder.token_embedding", "decoder.ln"]
    names += [f"decoder.blocks.{i}.cross_attn" for i in range(2)]
    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(count(name)) for name in names]
    with tm.disable_sdpa():
        got = [r.tokens for r in decode(model, mel, OPTIONS)]
    assert got == wanted
    assert fired == {n: 1 if n == "encoder.conv1" else 6 for n in names}
    for hook in hooks:
        hook.remove()
    with _engine.require():
        assert [r.tokens for r in decode(model, mel, OPTIONS)] == wanted


def test_a_patched_decoder_is_used_by_decode(model, mel):
    forward, calls = model.decoder.forward, []

    def patched(tokens, features, kv_cache=None):
        calls.append(tokens.shape)
        return forward(tokens, features, kv_cache=kv_cache)

    wanted = [r.tokens for r in decode(model, mel, OPTIONS)]
    model.decoder.forward = patched
    assert [r.tokens for r in decode(model, mel, OPTIONS)] == wanted
    assert len(calls) == 6
    del model.decoder.forward


def test_decode_leaves_no_hooks(model, mel):
    def hooks():
        return [m for m in model.modules() if m._forward_hooks]

    with _engine.disable():
        decode(model, mel, OPTIONS)
        assert not hooks()
        with pytest.raises(RuntimeError, match="stop"):
            model.decoder.ln.register_forward_hook(_raise_stop)
            decode(model, mel, OPTIONS)
    assert hooks() == [model.decoder.ln]


def _raise_stop(*_):
    raise RuntimeError("stop")


def test_replaced_linear_layers(model, mel, tokens):
    """The way of bitsandbytes, torchao and PEFT: other classes in place of Linear."""

    class LoRA(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a = nn.Parameter(torch.full((4, base.in_features), 0.01))
            self.b = nn.Parameter(torch.zeros(base.out_features, 4))

        def forward(self, x):
            return self.base(x) + x @ self.a.T @ self.b.T

    wanted = model(mel, tokens)
    model.requires_grad_(False)
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        assert type(block.attn.query) is tm.Linear and isinstance(block.attn.query, nn.Linear)
        block.attn.query = LoRA(block.attn.query)
    got = model(mel, tokens)
    assert torch.allclose(got, wanted, atol=1e-5)
    got.square().mean().backward()
    assert {n.rsplit(".", 1)[1] for n, p in model.named_parameters() if p.grad is not None} == {"a", "b"}


def test_devices_and_dtypes_move_everything(model):
    assert model.device == torch.device("cpu")
    assert {t.dtype for t in model.half().state_dict().values()} == {torch.float16}
    assert model.decoder.mask.dtype == torch.float16
    assert model.alignment_heads.dtype == torch.bool
    meta = model.to("meta")
    assert meta.device.type == "meta" and meta.decoder.mask.device.type == "meta"


def test_training_state_is_the_references(pair):
    for m in pair:
        assert m.training and all(p.requires_grad for p in m.parameters())
        assert not m.eval().decoder.blocks[0].attn.training


def test_optimizer_state_resumes_in_the_references_order(pair, mel, tokens):
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-3) for m in pair]
    for m, optimizer in zip(pair, optimizers, strict=True):
        m(mel, tokens).square().mean().backward()
        optimizer.step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for p, state in zip(pair[1].parameters(), optimizers[1].state.values(), strict=True):
        assert state["exp_avg"].shape == p.shape


def test_frozen_encoder_trains_the_decoder(pair, mel, tokens):
    grads = []
    for m in pair:
        m.encoder.requires_grad_(False)
        m(mel, tokens)[..., :50].square().mean().backward()
        assert all(p.grad is None for p in m.encoder.parameters())
        grads.append([p.grad for p in m.decoder.parameters()])
    for ours, theirs in zip(grads[1], grads[0], strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
