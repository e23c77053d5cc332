"""save_model(): what it writes, for whom, and that it never leaves half a file."""

import pytest
import torch
import whisper
from torch import nn

import torchwhisper
from torchwhisper import _save


def files(folder):
    return sorted(path.name for path in folder.iterdir())


class TestCheckpoints:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_the_reference_loads_them(self, model, tmp_path, dtype):
        path = str(tmp_path / "model.pt")
        torchwhisper.save_model(model.to(dtype), path)
        for loaded in (whisper.load_model(path), torchwhisper.load_model(path)):
            assert vars(loaded.dims) == vars(model.dims)
            for key, tensor in loaded.state_dict().items():
                assert torch.equal(tensor, model.state_dict()[key].float())
        kept = torch.load(path, weights_only=True)["model_state_dict"]
        assert {tensor.dtype for name, tensor in kept.items()} >= {dtype}

    def test_alignment_heads_are_carried_along(self, model, tmp_path):
        model.register_buffer("alignment_heads", torch.eye(2, dtype=torch.bool).to_sparse(), persistent=False)
        torchwhisper.save_model(model, tmp_path / "model.pt")
        loaded = torchwhisper.load_model(tmp_path / "model.pt")
        assert loaded.alignment_heads.is_sparse
        assert torch.equal(loaded.alignment_heads.to_dense(), torch.eye(2, dtype=torch.bool))

    def test_views_and_shared_tensors_are_stored_once_and_small(self, model, tmp_path):
        big = torch.randn(1000, 64, 64)
        with torch.no_grad():
            for i, block in enumerate(model.encoder.blocks):
                block.attn.out.weight = nn.Parameter(big[i])
            model.decoder.blocks[0].attn.out.weight = model.decoder.blocks[1].attn.out.weight
        for name in ("model.pt", "model.safetensors"):
            torchwhisper.save_model(model, tmp_path / name)
            assert (tmp_path / name).stat().st_size < 4 * sum(p.numel() for p in model.parameters()) + 300_000
            loaded = torchwhisper.load_model(tmp_path / name)
            assert torch.equal(loaded.encoder.blocks[1].attn.out.weight, big[1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.pt", "pt"), ("a.pth", "pt"), ("a.ckpt", "pt"), ("a.safetensors", "safetensors"),
        ("a", "hugging_face"), ("a/", "hugging_face"), ("v1.2", None), ("a.onnx", None),
    ],
)  # fmt: skip
def test_the_suffix_chooses_the_format(model, tmp_path, name, expected):
    path = f"{tmp_path}/{name}"
    if expected is None:
        with pytest.raises(ValueError, match="which names no format: pass format, one of"):
            torchwhisper.save_model(model, path)
        torchwhisper.save_model(model, path, "hugging_face")
        torchwhisper.save_model(model, path)  # a folder by now
    else:
        torchwhisper.save_model(model, path)
    folder = (tmp_path / name).is_dir()
    assert folder == (expected in (None, "hugging_face"))
    assert torchwhisper.load_model(path).dims == model.dims
    if expected == "pt":
        assert "dims" in torch.load(path, weights_only=True)


def test_unknown_formats_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="format is 'onnx', expected one of"):
        torchwhisper.save_model(model, tmp_path / "a.pt", "onnx")
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "folder"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_fault_leaves_the_old_file(model, tmp_path, monkeypatch, name, error):
    torchwhisper.save_model(model, tmp_path / name)
    old = torchwhisper.load_model(tmp_path / name).state_dict()
    with torch.no_grad():
        model.encoder.conv1.weight.zero_()

    def fail(*args):
        raise error

    monkeypatch.setattr(_save.os, "fsync", fail)  # the data are written, the name is not yet given
    with pytest.raises(error):
        torchwhisper.save_model(model, tmp_path / name)
    new = torchwhisper.load_model(tmp_path / name).state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old)
    assert len(files(tmp_path)) == 1 and not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_is_named(model, tmp_path, monkeypatch):
    """torch tells of it by two positions in the file."""

    def save(*given):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 7254976 vs 7254868")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RuntimeError, match=r"model\.pt cannot be written, \d+ MB are free there: "):
        torchwhisper.save_model(model, tmp_path / "model.pt")
    assert not files(tmp_path)


def test_other_layers_are_refused(model, tmp_path):
    model.encoder.blocks[0].attn.query = nn.Sequential(model.encoder.blocks[0].attn.query)
    with pytest.raises(RuntimeError, match=r"lacks encoder\.blocks\.0\.attn\.query\.weight"):
        torchwhisper.save_model(model, tmp_path / "model.pt")
    assert files(tmp_path) == []


def test_parameters_without_data_are_refused(model, tmp_path):
    with pytest.raises(RuntimeError, match="on meta, expected dense floating point"):
        torchwhisper.save_model(model.to("meta"), tmp_path / "model.pt")
