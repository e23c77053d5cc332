"""Adapters: trained on the Python path, merged for the engine."""

import copy

import pytest
import torch
from corpus import DIMS, small_model

from torchwhisper import _engine, explain
from torchwhisper.training import add_lora, chunked_cross_entropy, merge_lora, plain_copy

pytest.importorskip("peft", reason="PEFT is not installed: LoRA is not tested")


@pytest.fixture
def mel():
    return torch.randn(2, 80, 120, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokens():
    return torch.randint(0, 50000, (2, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def adapted():
    model = small_model()
    add_lora(model, 4)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # starts at 0, where adapters do nothing
                parameter.normal_(std=0.1)
    return model


def gradients(model, mel, tokens):
    model.zero_grad()
    hidden = model.decoder.hidden(tokens[:, :-1], model.encoder(mel))
    chunked_cross_entropy(hidden, model.decoder.token_embedding.weight, tokens[:, 1:]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_only_adapters_are_trained(adapted, mel, tokens):
    found = gradients(adapted, mel, tokens)
    n_attentions = DIMS["n_audio_layer"] + 2 * DIMS["n_text_layer"]
    assert len(found) == n_attentions * 2 * 2
    assert all("lora_" in name for name in found)


@pytest.mark.parametrize("policy", ["selective", "mlp", "block"])
def test_gradients_with_checkpointing(adapted, mel, tokens, policy):
    expected = gradients(adapted, mel, tokens)
    adapted.enable_checkpointing(policy)
    found = gradients(adapted, mel, tokens)
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        assert want.abs().max() > 0
        assert torch.equal(found[name], want), name


def test_a_merged_copy_computes_the_same_in_the_engine(adapted, mel, tokens):
    with torch.no_grad():
        expected = adapted(mel, tokens)
        assert "Python path" in explain(adapted)
        before = copy.deepcopy(adapted.state_dict())
        merged = plain_copy(adapted)
        assert explain(merged).startswith("C++ engine")
        with _engine.require():
            torch.testing.assert_close(merged(mel, tokens), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.state_dict().items())
    assert merged.state_dict().keys() == small_model().state_dict().keys()


def test_merging_in_place(adapted):
    assert merge_lora(adapted) is adapted
    assert explain(adapted).startswith("C++ engine")


def test_a_plain_model_is_its_own_copy():
    model = small_model()
    assert plain_copy(model) is model
