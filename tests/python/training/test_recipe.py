"""Rates, schedule and optimizer."""

import pytest
import torch
from corpus import DIMS, small_model

from torchwhisper import _C
from torchwhisper.model import ModelDimensions
from torchwhisper.training import default_rate
from torchwhisper.training.recipe import (
    Schedule,
    clip,
    default_warmup,
    fastest_precision,
    make_optimizer,
)


@pytest.mark.parametrize(
    ("width", "rate"), [(256, 3.75e-5), (384, 3.75e-5), (512, 2.5e-5), (768, 1.25e-5), (1280, 4.375e-6)]
)
def test_larger_models_learn_slower(width, rate):
    dims = ModelDimensions(**DIMS | {"n_audio_state": width})
    assert default_rate(dims) == rate
    assert default_rate(dims, lora=True) == 1e-3


def test_bfloat16_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(_C, "compute_type_obstacle", lambda name: None)
    assert fastest_precision(torch.device("cpu")) == "bf16"
    monkeypatch.setattr(_C, "compute_type_obstacle", lambda name: "it is slow here")
    assert fastest_precision(torch.device("cpu")) == "fp32"
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert fastest_precision(torch.device("cuda")) == expected


def test_the_rate_rises_and_falls():
    schedule = Schedule(rate=1.0, warmup=4)
    rates = [schedule.at(step, step / 20) for step in range(21)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == pytest.approx([1 - step / 20 for step in range(4, 21)])
    assert Schedule(1.0, 0).at(0, 0.0) == 1.0
    assert [default_warmup(n) for n in (5, 100, 10000)] == [0, 10, 500]


def test_weights_of_norms_and_biases_do_not_decay():
    model = small_model()
    model.encoder.requires_grad_(False)
    optimizer = make_optimizer(model, 1e-3, 0.1, (0.9, 0.98), 1e-6)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert decay.keys() == {id(p) for name, p in named.items() if name.startswith("decoder.")}
    assert decay[id(named["decoder.blocks.0.mlp.0.weight"])] == 0.1
    for name in ("decoder.blocks.0.mlp.0.bias", "decoder.ln.weight", "decoder.positional_embedding"):
        assert decay[id(named[name])] == 0


def test_clip():
    layer = torch.nn.Linear(2, 2)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert clip(layer, 0).item() == pytest.approx(6**0.5)
    assert layer.bias.grad.tolist() == [1, 1]
    clip(layer, 1.0)
    assert clip(layer, 0).item() == pytest.approx(1, rel=1e-4)
