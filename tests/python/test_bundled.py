"""The bundled model: its file gives back every bit of the checkpoint that it was made from."""

import hashlib
from pathlib import Path

import pytest
import torch

from torchwhisper import _bundled

# Of names, shapes and bytes of the float16 state_dict of the checkpoint that the demo model is.
DEMO_SHA256 = "f051cf7b6c233b424b413fbdaa63b22d7dfda64ad4506a5080c9e96ed9353c1c"


def digest(state):
    result = hashlib.sha256()
    for name, tensor in state.items():
        result.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        result.update(tensor.contiguous().numpy().tobytes())
    return result.hexdigest()


@pytest.fixture(scope="module")
def demo():
    return _bundled.load("demo")


def test_demo_has_the_recorded_bits(demo):
    assert digest(demo["model_state_dict"]) == DEMO_SHA256


def test_demo_equals_its_checkpoint(demo, shared):
    expected = torch.load(shared("models/demo.pt"), weights_only=True)
    assert demo["dims"] == expected["dims"]
    assert list(demo["model_state_dict"]) == list(expected["model_state_dict"])
    for name, tensor in expected["model_state_dict"].items():
        got = demo["model_state_dict"][name]
        assert torch.equal(got.view(torch.int16), tensor.view(torch.int16)), name


def test_demo_adds_at_most_30_mb():
    path = Path(_bundled.__file__).parent / "assets" / "demo.model"
    assert path.stat().st_size <= 30_000_000


def every_half():
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.float16)


@pytest.mark.parametrize(
    "tensors",
    [
        {"all": every_half()},
        {"rows": torch.ones(5, 3, dtype=torch.float16), "after": torch.arange(4).half()},
        {"some": torch.tensor([[1, 2], [3, 4], [1, 2], [-0.0, 5], [0.0, 5]], dtype=torch.float16)},
        {"transposed": torch.arange(6).half().reshape(2, 3).T, "cube": torch.zeros(2, 3, 2).half()},
        {"one": torch.full((1, 1), float("nan"), dtype=torch.float16)},
    ],
    ids=lambda tensors: next(iter(tensors)),
)
def test_pack_keeps_every_bit(tensors):
    got = _bundled.unpack(_bundled.pack({"dims": {"n_mels": 80}, "model_state_dict": tensors}))
    assert got["dims"] == {"n_mels": 80}
    assert digest(got["model_state_dict"]) == digest(tensors)


def test_pack_refuses_other_types():
    with pytest.raises(ValueError, match=r"expected torch\.float16"):
        _bundled.pack({"dims": {}, "model_state_dict": {"w": torch.ones(2)}})


def damaged(data, what):
    cut, flip = {"empty": (0, None), "short": (20, None), "cut": (-1, None), "bit": (None, -100)}[what]
    data = bytearray(data if cut is None else data[:cut])
    if flip is not None:
        data[flip] ^= 1
    return bytes(data)


@pytest.mark.parametrize("what", ["empty", "short", "cut", "bit"])
def test_damage_is_one_sentence(tmp_path, monkeypatch, what):
    packed = _bundled.pack({"dims": {}, "model_state_dict": {"w": torch.randn(64, 64).half()}})
    (tmp_path / "x.model").write_bytes(damaged(packed, what))
    monkeypatch.setattr(_bundled, "_ASSETS", tmp_path)
    with pytest.raises(RuntimeError, match="bundled model x is damaged"):
        _bundled.load("x")


def test_absence_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(_bundled, "_ASSETS", tmp_path)
    with pytest.raises(RuntimeError, match="bundled model x is missing"):
        _bundled.load("x")
