"""load_model() and its downloads: names, folders, checksums and what they say."""

import hashlib
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from conftest import fill
from fault_server import DATA, SHA256, serving

DIMS = {
    **{"n_mels": 80, "n_audio_ctx": 30, "n_audio_state": 24, "n_audio_head": 6, "n_audio_layer": 2},
    **{"n_vocab": 99, "n_text_ctx": 20, "n_text_state": 24, "n_text_head": 6, "n_text_layer": 4},
}


@pytest.fixture
def checkpoint(package, tmp_path):
    """The path of a checkpoint in half precision."""
    model = package.model.Whisper(package.model.ModelDimensions(**DIMS))
    fill(model, 0)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    path = tmp_path / "mine.pt"
    torch.save({"dims": DIMS, "model_state_dict": state}, path)
    return str(path)


class Official:
    """A model "tiny" that is downloaded from a folder; its URL carries the checksum, as official ones do."""

    def __init__(self, content, tmp_path):
        self.content = content
        self.source = tmp_path / "server" / hashlib.sha256(content).hexdigest() / "tiny.pt"
        self.source.parent.mkdir(parents=True)
        self.source.write_bytes(content)
        self.root = tmp_path / "cache"
        self.target = self.root / "tiny.pt"


@pytest.fixture
def official(package, checkpoint, tmp_path, monkeypatch):
    found = Official(Path(checkpoint).read_bytes(), tmp_path)
    monkeypatch.setitem(package.root._MODELS, "tiny", found.source.as_uri())
    return found


def load(package, official, **options):
    """The model, and the warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = package.root.load_model("tiny", device="cpu", download_root=str(official.root), **options)
    return model, [str(w.message) for w in warned if w.category is UserWarning]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# --- what load_model() returns ----------------------------------------------------------------------------


def test_a_model_is_ready_to_be_trained(package, checkpoint):
    model = package.root.load_model(checkpoint, device="cpu")
    stored = torch.load(checkpoint, weights_only=True)["model_state_dict"]
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(p, stored[name].float()) for name, p in model.state_dict().items())


def test_the_device_is_cuda_where_there_is_one(package, checkpoint):
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert package.root.load_model(checkpoint).device.type == wanted
    assert package.root.load_model(checkpoint, torch.device("cpu")).device == torch.device("cpu")


def test_the_device_is_never_apples_unless_asked_for(package, checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert package.root.load_model(checkpoint).device.type == "cpu"


@pytest.mark.parametrize("device", ["", "no-such-device", "xpu", "mps"])
def test_a_device_that_is_none(package, checkpoint, device):
    with pytest.raises(RuntimeError):
        package.root.load_model(checkpoint, device)


def test_only_a_name_tells_the_alignment_heads(package, official, checkpoint):
    """A fine-tuned model that is loaded by its path has the default ones: the upper half."""
    default = [[layer, head] for layer in (2, 3) for head in range(6)]
    assert package.root.load_model(checkpoint, "cpu").alignment_heads.indices().T.tolist() == default
    model, _ = load(package, official)
    assert model.alignment_heads.indices().shape == (2, 6)


# --- names ------------------------------------------------------------------------------------------------


def test_an_unknown_name(package):
    with pytest.raises(RuntimeError) as caught:
        package.root.load_model("no-such-model")
    names = package.root.available_models()
    assert str(caught.value) == f"Model no-such-model not found; available models = {names}"


def test_a_file_that_is_named_like_a_model_loses(package, official, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_bytes(b"no checkpoint")
    model, _ = load(package, official)
    assert vars(model.dims) == DIMS


def test_a_path_may_be_an_object(package, checkpoint):
    assert vars(package.root.load_model(Path(checkpoint), "cpu").dims) == DIMS


def test_files_that_are_given_by_path_are_not_checked(package, checkpoint, tmp_path):
    renamed = str(Path(checkpoint).rename(tmp_path / "tiny.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert vars(package.root.load_model(renamed, "cpu", in_memory=True).dims) == DIMS


# --- files that are no checkpoints ------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["dims", "model_state_dict"])
def test_a_checkpoint_lacks_a_part(package, checkpoint, key):
    content = torch.load(checkpoint, weights_only=True)
    del content[key]
    torch.save(content, checkpoint)
    error = KeyError if package.is_reference else RuntimeError
    with pytest.raises(error, match=key):
        package.root.load_model(checkpoint, "cpu")


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_code_in_a_file_is_not_run(package, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**torch.load(checkpoint, weights_only=True), "more": Evil()}, checkpoint)
    with pytest.raises(pickle.UnpicklingError if package.is_reference else RuntimeError):
        package.root.load_model(checkpoint, "cpu")
    assert not Path("executed").exists()


def test_dims_beyond_all_measure(package, checkpoint):
    """The reference begins to allocate what the file asks for."""
    content = torch.load(checkpoint, weights_only=True)
    content["dims"] = {**DIMS, "n_vocab": 1 << 50}
    torch.save(content, checkpoint)
    asked = "allocate|memory|overflow" if package.is_reference else "impossible dims: n_vocab is"
    with pytest.raises(RuntimeError, match=asked):
        package.root.load_model(checkpoint, "cpu")


# --- downloads --------------------------------------------------------------------------------------------


def test_a_download_is_kept(package, official, capsys):
    load(package, official)
    assert "100%" in capsys.readouterr().err
    assert visible(official.root) == ["tiny.pt"] and official.target.read_bytes() == official.content
    official.source.unlink()
    for in_memory in (False, True):
        assert load(package, official, in_memory=in_memory)[1] == []


def test_download_gives_a_path_or_the_bytes(package, official):
    url, root = official.source.as_uri(), str(official.root)
    assert package.root._download(url, root, False) == str(official.target)
    assert package.root._download(url, root, True) == official.content


def test_progress_is_shown_by_a_name_that_can_be_replaced(package, official, monkeypatch):
    shown = []

    class Bar:
        def __init__(self, *, total, ncols, unit, unit_scale, unit_divisor):
            shown.append((total, ncols, unit, unit_scale, unit_divisor))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n):
            shown.append(n)

    monkeypatch.setattr(package.root, "tqdm", Bar)
    load(package, official)
    assert shown[0] == (len(official.content), 80, "iB", True, 1024)
    assert sum(shown[1:]) == len(official.content)


def test_a_folder_in_the_way(package, official):
    official.target.mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"tiny\.pt exists and is not a regular file"):
        load(package, official)


@pytest.mark.parametrize("same_time", [False, True])
def test_a_changed_file_is_downloaded_again(package, official, same_time):
    load(package, official)
    before = official.target.stat()
    official.target.write_bytes(official.content[:-1] + b"?")
    if same_time:
        os.utime(official.target, ns=(before.st_atime_ns, before.st_mtime_ns))
    _, warned = load(package, official)
    assert warned == [
        f"{official.target} exists, but the SHA256 checksum does not match; re-downloading the file"
    ]
    assert official.target.read_bytes() == official.content


def test_a_download_of_something_else(package, official):
    official.source.write_bytes(b"something else")
    with pytest.raises(RuntimeError, match=r"downloaded but the SHA256 checksum does not not match\. Please"):
        load(package, official)
    assert visible(official.root) == (["tiny.pt"] if package.is_reference else [])


def test_a_server_that_tells_no_length(package, tmp_path):
    with serving() as server:
        server.script = [{"length": False}]
        if package.is_reference:
            with pytest.raises(TypeError, match="NoneType"):
                package.root._download(server.url, str(tmp_path), True)
        else:
            assert package.root._download(server.url, str(tmp_path), True) == DATA


def test_a_broken_connection(package, tmp_path):
    """The reference leaves half a file under the final name."""
    with serving() as server:
        server.script = [{"cut": 100_000}]
        target = tmp_path / "tiny.pt"
        if package.is_reference:
            with pytest.raises(RuntimeError, match="does not not match"):
                package.root._download(server.url, str(tmp_path), False)
            assert target.stat().st_size == 100_000
        else:
            with pytest.warns(UserWarning, match="trying again"):
                package.root._download(server.url, str(tmp_path), False)
            assert hashlib.sha256(target.read_bytes()).hexdigest() == SHA256


def test_a_file_is_hashed_at_every_start_by_the_reference_only(package, official, monkeypatch):
    load(package, official)
    hashed, sha256 = [], hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *data: hashed.append(data) or sha256(*data))
    load(package, official)
    assert bool(hashed) == package.is_reference


def test_the_class_of_the_model_can_be_replaced(package, official, monkeypatch):
    class Mine(package.model.Whisper):
        pass

    monkeypatch.setattr(package.root, "Whisper", Mine)
    assert type(load(package, official)[0]) is Mine
