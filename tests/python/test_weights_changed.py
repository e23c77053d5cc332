"""Weights that change under the engine, in ways that leave a trace and in ways that leave none, are seen."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import torchwhisper.model as tm
from torchwhisper import _engine
from torchwhisper.decoding import DecodingOptions, DecodingResult, decode

WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


def _backward(model, mel):
    model(mel, torch.zeros(mel.shape[0], 4, dtype=torch.long)).square().mean().backward()


@way
def sgd_step(model, mel):
    _backward(model, mel)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


@way
def fused_sgd_step(model, mel):
    _backward(model, mel)
    torch.optim.SGD(model.parameters(), lr=0.1, fused=True).step()


@way
def fused_adam_step(model, mel):
    _backward(model, mel)
    torch.optim.AdamW(model.parameters(), lr=0.01, fused=True).step()


@way
def foreach_adam_step(model, mel):
    _backward(model, mel)
    torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True).step()


@way
def data_add(model, mel):
    for p in model.parameters():
        p.data.add_(0.02 * torch.randn_like(p))


@way
def add_without_gradients(model, mel):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))


def _other_state(model):
    return {k: v + 0.02 * torch.randn_like(v) for k, v in model.state_dict().items()}


@way
def load_state_dict(model, mel):
    model.load_state_dict(_other_state(model))


@way
def load_state_dict_with_assign(model, mel):
    model.load_state_dict(_other_state(model), assign=True)


@way
def half_and_back(model, mel):
    model.half().float()


@way
def numpy_write(model, mel):
    weight = model.decoder.blocks[0].mlp[0].weight.data.numpy()
    np.multiply(weight, 1.5, out=weight)


@way
def numpy_write_of_one_number(model, mel):
    model.encoder.blocks[0].attn.value.weight.data.numpy()[3, 5] += 10


@way
def embedding_row(model, mel):
    model.decoder.token_embedding.weight.data[1000:30000] *= 1.1


@way
def parameter_replaced(model, mel):
    out = model.decoder.blocks[1].cross_attn.out
    out.weight = nn.Parameter(out.weight.detach() * 2)


@way
def storage_replaced(model, mel):
    weight = model.encoder.blocks[1].attn.value.weight
    weight.data = weight.data * 2


@way
def storage_set(model, mel):
    weight = model.encoder.blocks[1].attn.value.weight
    with torch.no_grad():
        weight.set_((weight * 2).untyped_storage(), 0, weight.shape)


@way
def module_replaced(model, mel):
    fresh = tm.Whisper(model.dims)
    model.decoder.blocks[1].mlp = fresh.decoder.blocks[1].mlp


@way
def adapter_merged(model, mel):
    """What peft's merge_and_unload leaves behind."""
    for block in model.decoder.blocks:
        linear = block.attn.query
        a, b = torch.randn(4, linear.in_features), torch.randn(linear.out_features, 4)
        linear.weight.data += 0.05 * (b @ a)


@way
def buffer_written(model, mel):
    model.encoder.positional_embedding.mul_(0.5)


@way
def swapped_in_averages(model, mel):
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.module.load_state_dict(_other_state(model))
    for p, q in zip(model.parameters(), averaged.module.parameters(), strict=True):
        p.data.copy_(q.data)


OPTIONS = DecodingOptions(language="en", fp16=False, sample_len=8)


def assert_same(got: list[DecodingResult], wanted: list[DecodingResult]) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a.audio_features, b.audio_features)
        assert (a.tokens, a.avg_logprob, a.no_speech_prob) == (b.tokens, b.avg_logprob, b.no_speech_prob)


def fresh_copy(model: tm.Whisper) -> tm.Whisper:
    """As if the changed weights had been saved and loaded."""
    fresh = tm.Whisper(model.dims)
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    return fresh


@pytest.mark.parametrize("name", sorted(WAYS))
def test_decode_sees_changed_weights(model, mel, name):
    torch.manual_seed(0)
    with _engine.require():
        before = decode(model, mel, OPTIONS)
        WAYS[name](model, mel)
        after = decode(model, mel, OPTIONS)
        assert_same(after, decode(fresh_copy(model), mel, OPTIONS))
    assert [r.avg_logprob for r in before] != [r.avg_logprob for r in after]


@pytest.mark.parametrize("name", sorted(WAYS))
def test_direct_calls_see_changed_weights(model, mel, tokens, name):
    torch.manual_seed(0)
    with _engine.require():
        before = model(mel, tokens)
        WAYS[name](model, mel)
        after = model(mel, tokens)
        assert torch.equal(after, fresh_copy(model)(mel, tokens))
    assert not torch.equal(before, after)


def test_nothing_changed_is_seen_too(model, mel):
    """The check itself must not be what rebuilds."""
    with _engine.session(model, torch.float32) as first:
        pass
    decode(model, mel, OPTIONS)
    model.eval().requires_grad_(False)
    with _engine.session(model, torch.float32) as second:
        assert second is first


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_parameters_decode(model, mel, dtype):
    """Parameters of another type are cast once, as the Python path casts them at every call."""
    model.to(dtype)
    with _engine.require():
        got = decode(model, mel, OPTIONS)
    with _engine.disable():
        wanted = decode(model, mel, OPTIONS)
    for a, b in zip(got, wanted, strict=True):
        assert a.tokens == b.tokens
        assert a.avg_logprob == pytest.approx(b.avg_logprob, abs=1e-5)
