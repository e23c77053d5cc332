"""load_model(): official names, checkpoint files, the bundled model, and one sentence for what is wrong."""

import dataclasses
import hashlib
import os
import pickle
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import whisper

import torchwhisper

DIMS = torchwhisper.ModelDimensions(
    n_mels=80, n_audio_ctx=30, n_audio_state=24, n_audio_head=6, n_audio_layer=2,
    n_vocab=99, n_text_ctx=20, n_text_state=24, n_text_head=6, n_text_layer=4,
)  # fmt: skip
PACKAGE = Path(torchwhisper.__file__).parent


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return {name: tensor.half() for name, tensor in torchwhisper.Whisper(DIMS).state_dict().items()}


@pytest.fixture
def checkpoint(weights):
    return {"dims": dict(vars(DIMS)), "model_state_dict": dict(weights)}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.pt")


def save(checkpoint, path):
    torch.save(checkpoint, path)
    return path


def buffers_of(model):
    """As attributes give them: ours keeps one dense that it shows sparse."""
    return {name: model.get_buffer(name) for name, _ in model.named_buffers()}


def assert_same_model(got, expected):
    assert vars(got.dims) == vars(expected.dims)
    assert got.training == expected.training
    for mine, theirs in (
        (dict(got.named_parameters()), dict(expected.named_parameters())),
        (buffers_of(got), buffers_of(expected)),
    ):
        assert list(mine) == list(theirs)
        for name, tensor in theirs.items():
            assert type(mine[name]) is type(tensor), name
            assert mine[name].dtype == tensor.dtype and mine[name].layout == tensor.layout, name
            assert mine[name].requires_grad == tensor.requires_grad, name
            assert torch.equal(mine[name].to_dense(), tensor.to_dense()), name


class TestNames:
    def test_the_tables_are_the_reference_s(self):
        assert torchwhisper.available_models() == whisper.available_models()
        assert torchwhisper._MODELS == whisper._MODELS
        assert torchwhisper._ALIGNMENT_HEADS == whisper._ALIGNMENT_HEADS
        assert "demo" not in torchwhisper.available_models()

    def test_every_name_of_the_reference_is_there(self):
        missing = {name for name in vars(whisper) if not hasattr(torchwhisper, name)} - {
            "normalizers",
            "triton_ops",
        }
        assert not missing
        different = {
            name
            for name, value in vars(whisper).items()
            if isinstance(value, types.ModuleType)
            and not value.__name__.startswith("whisper")
            and getattr(torchwhisper, name) is not value
        }
        assert not different

    def test_transcribe_is_the_function(self):
        assert torchwhisper.transcribe is sys.modules["torchwhisper.transcribe"].transcribe
        assert torchwhisper.Whisper.transcribe is torchwhisper.transcribe

    def test_import_stays_light(self):
        heavy = ("numba", "triton", "scipy", "torchwhisper.normalizers", "torchwhisper.triton_ops")
        code = f"import torchwhisper, sys; print([n for n in {heavy} if n in sys.modules])"
        baseline = "import torch, sys; print([n for n in ('numba', 'triton', 'scipy') if n in sys.modules])"
        outputs = [
            subprocess.run([sys.executable, "-c", c], check=True, capture_output=True, text=True).stdout
            for c in (code, baseline)
        ]
        assert outputs[0] == outputs[1]


class TestCheckpointFiles:
    @pytest.mark.parametrize("in_memory", [False, True])
    def test_loads_what_the_reference_loads(self, checkpoint, path, in_memory):
        save(checkpoint, path)
        expected = whisper.load_model(path, "cpu", in_memory=in_memory)
        assert_same_model(torchwhisper.load_model(path, "cpu", in_memory=in_memory), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_parameters_become_float32(self, checkpoint, path, dtype):
        state = checkpoint["model_state_dict"]
        checkpoint["model_state_dict"] = {name: tensor.to(dtype) for name, tensor in state.items()}
        save(checkpoint, path)
        assert_same_model(torchwhisper.load_model(path), whisper.load_model(path))

    def test_takes_the_stored_positions_and_other_layouts(self, checkpoint, path):
        state = checkpoint["model_state_dict"]
        state["encoder.positional_embedding"] = torch.randn(30, 24).half()
        state["encoder.conv1.weight"] = (
            state["encoder.conv1.weight"].permute(2, 1, 0).contiguous().permute(2, 1, 0)
        )
        save(checkpoint, path)
        assert_same_model(torchwhisper.load_model(path), whisper.load_model(path))

    def test_takes_the_old_file_format_and_path_objects(self, checkpoint, path):
        torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
        assert_same_model(torchwhisper.load_model(Path(path)), whisper.load_model(path))

    def test_two_models_share_nothing(self, checkpoint, path):
        save(checkpoint, path)
        first, second = torchwhisper.load_model(path), torchwhisper.load_model(path)
        with torch.no_grad():
            for tensor in (*first.parameters(), first.encoder.positional_embedding):
                tensor.zero_()
        assert all(
            tensor.any() for name, tensor in second.state_dict().items() if name.endswith("query.weight")
        )
        assert second.encoder.positional_embedding.any()

    @pytest.mark.parametrize("heads", [[[0, 1], [3, 5]], None, [], [[4, 0]], torch.ones(4, 6), b"?", "all"])
    def test_alignment_heads_in_the_file(self, checkpoint, path, heads):
        save({**checkpoint, "alignment_heads": heads}, path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = torchwhisper.load_model(path)
        good = heads == [[0, 1], [3, 5]] if isinstance(heads, list) else False
        default = [[i, j] for i in (2, 3) for j in range(6)]
        assert model.alignment_heads.indices().T.tolist() == (heads if good else default)
        said = any("are not pairs of a layer and a head" in str(warning.message) for warning in caught)
        absent = heads is None or (isinstance(heads, list) and not heads)
        assert said == (not good and not absent)

    @pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
    def test_weights_that_are_no_numbers_are_warned_of(self, checkpoint, path, bad):
        checkpoint["model_state_dict"]["decoder.ln.bias"] = torch.zeros(24).index_fill(
            0, torch.tensor(3), bad
        )
        save(checkpoint, path)
        with pytest.warns(
            UserWarning, match=r"model\.pt is damaged and may not decode: its decoder\.ln\.bias holds"
        ):
            torchwhisper.load_model(path, device="cpu")

    def test_great_weights_are_none_of_these(self, checkpoint, path):
        checkpoint["model_state_dict"]["decoder.ln.bias"] = torch.full((24,), 3e38)
        save(checkpoint, path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torchwhisper.load_model(path, device="cpu")

    def test_does_not_touch_the_random_state(self, checkpoint, path):
        save(checkpoint, path)
        torch.manual_seed(7)
        torchwhisper.load_model(path)
        drawn = torch.rand(3)
        torch.manual_seed(7)
        assert torch.equal(drawn, torch.rand(3))

    def test_can_be_trained_and_saved(self, checkpoint, path):
        model = torchwhisper.load_model(save(checkpoint, path))
        model(torch.randn(1, 80, 60), torch.zeros(1, 3, dtype=torch.long)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        save({"dims": model.dims.__dict__, "model_state_dict": model.state_dict()}, path)
        assert_same_model(torchwhisper.load_model(path), whisper.load_model(path))

    def test_a_bad_device_is_found_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torchwhisper, "_download", lambda *args: pytest.fail("downloaded"))
        with pytest.raises(RuntimeError, match="no-such-device"):
            torchwhisper.load_model("tiny", device="no-such-device")


class TestDemo:
    def test_loads_without_a_file(self):
        model = torchwhisper.load_model("demo", device="cpu")
        assert model.dims.n_audio_state == 256 and model.is_multilingual and model.training
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model.alignment_heads.indices().T.tolist() == [[i, j] for i in (2, 3) for j in range(4)]

    def test_wins_over_a_file_of_that_name(self, checkpoint, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save(checkpoint, "demo")
        assert torchwhisper.load_model("demo").dims.n_audio_state == 256
        assert torchwhisper.load_model("./demo").dims.n_audio_state == 24


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def bad_file(kind, checkpoint, path):
    save(checkpoint, path)
    data = Path(path).read_bytes()
    Path(path).write_bytes({
        "empty": b"",
        "text": b"hello, this is no checkpoint\n" * 20,
        "cut": data[: len(data) // 2],
        "head": data[:100],
        "zip": b"PK\x03\x04" + data[4:200],
        "json": b'{"dims": {}}',
        "zeros": bytes(4096),
    }[kind])  # fmt: skip


class TestBadFiles:
    """Every message is one line that names the model, and nothing is left behind."""

    def refuses(self, path, match):
        for in_memory in (False, True):
            with pytest.raises(RuntimeError, match=match) as caught:
                torchwhisper.load_model(path, in_memory=in_memory)
            assert "\n" not in str(caught.value) and path in str(caught.value)

    def test_unknown_name(self):
        self.refuses("no-such-model", r"Model no-such-model not found; available models = \['tiny.en', ")
        with pytest.raises(RuntimeError) as theirs:
            whisper.load_model("no-such-model")
        with pytest.raises(RuntimeError) as ours:
            torchwhisper.load_model("no-such-model")
        assert str(ours.value) == str(theirs.value)

    def test_directory(self, tmp_path):
        self.refuses(str(tmp_path), "it is a directory")

    @pytest.mark.parametrize("kind", ["empty", "text", "cut", "head", "zip", "json", "zeros"])
    def test_corrupt(self, checkpoint, path, kind):
        bad_file(kind, checkpoint, path)
        self.refuses(path, "the file is empty" if kind == "empty" else "corrupt or not a PyTorch checkpoint")

    def test_a_zip_of_something_else(self, path):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("notes.txt", "hello")
        self.refuses(path, "corrupt or not a PyTorch checkpoint")

    def test_what_would_fill_the_memory(self, checkpoint, path, tmp_path):
        checkpoint["model_state_dict"]["zeros"] = torch.zeros(1 << 20)
        save(checkpoint, path)
        packed = str(tmp_path / "packed.pt")
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            for entry in source.infolist():
                target.writestr(entry.filename, source.read(entry))
        self.refuses(packed, r"its .* bytes would unpack to 4,")

    @pytest.mark.parametrize(
        ("head", "match"),
        [
            (b"lmgg", r"a ggml file of whisper\.cpp: give the model that it was converted from"),
            (b"GGUF", r"a ggml file of whisper\.cpp"),
            (
                b"\6\0\0\0\x0c\0WhisperSpec\0",
                r"a model of CTranslate2 \(faster-whisper\): give the model that",
            ),
            (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: git lfs pull brings"),
            (b"\n<!DOCTYPE html><html>", "a web page: the download went wrong"),
        ],
    )
    def test_files_of_other_programs(self, path, head, match):
        Path(path).write_bytes(head + bytes(400))
        self.refuses(path, match)

    def test_a_state_dict_alone(self, checkpoint, path):
        self.refuses(save(checkpoint["model_state_dict"], path), r"a state_dict alone: save_model\(\) writes")

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_a_model_that_was_saved_whole(self, path):
        self.refuses(
            save(torchwhisper.Whisper(DIMS), path), r"load it where it is trusted and use save_model\(\)"
        )

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_code_is_never_run(self, checkpoint, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.refuses(save({**checkpoint, "more": Evil()}, path), "more than tensors and plain values")
        Path(path).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(RuntimeError, match="cannot be loaded"):
            torchwhisper.load_model(path)
        assert not Path("executed").exists()

    @pytest.mark.parametrize("key", ["dims", "model_state_dict"])
    @pytest.mark.parametrize("value", [None, [1], "absent"])
    def test_no_checkpoint_of_whisper(self, checkpoint, path, key, value):
        if value == "absent":
            del checkpoint[key]
        else:
            checkpoint[key] = value
        self.refuses(save(checkpoint, path), f"no dictionary '{key}'")

    @pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, None])
    def test_other_content(self, path, content):
        self.refuses(save(content, path), "is not a Whisper checkpoint")

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DIMS)])
    @pytest.mark.parametrize("value", [0, -1, 1 << 31, 1 << 70, 24.0, "24", None, True, [24]])
    def test_impossible_dims(self, checkpoint, path, field, value):
        checkpoint["dims"][field] = value
        self.refuses(save(checkpoint, path), f"impossible dims: {field} is .*, expected a whole number")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"n_mels": 81}, "n_mels is 81, expected 80 or 128"),
            ({"n_text_head": 5}, "n_text_state is 24, expected an even multiple of n_text_head = 5"),
            ({"n_audio_head": 7}, "n_audio_state is 24, expected an even multiple of n_audio_head = 7"),
            ({"n_text_state": 48}, "n_audio_state is 24, expected n_text_state = 48"),
            ({"n_speakers": 2}, "n_speakers is unknown"),
        ],
    )
    def test_dims_that_do_not_go_together(self, checkpoint, path, change, match):
        checkpoint["dims"].update(change)
        self.refuses(save(checkpoint, path), match)

    def test_missing_dims(self, checkpoint, path):
        del checkpoint["dims"]["n_vocab"]
        self.refuses(save(checkpoint, path), "n_vocab is missing")

    @pytest.mark.parametrize(
        "field", ["n_vocab", "n_audio_ctx", "n_text_ctx", "n_audio_layer", "n_text_layer"]
    )
    @pytest.mark.parametrize("by", [-1, 1])
    def test_dims_that_do_not_fit_the_tensors(self, checkpoint, path, field, by):
        checkpoint["dims"][field] += by
        self.refuses(save(checkpoint, path), "bad tensor|lacks|unexpected entries")

    def test_missing_and_unexpected_entries(self, checkpoint, path):
        state = checkpoint["model_state_dict"]
        lost = state.pop("decoder.blocks.1.attn.key.weight")
        self.refuses(save(checkpoint, path), r"lacks decoder\.blocks\.1\.attn\.key\.weight")
        state["decoder.blocks.1.attn.key.weight"] = lost
        state["decoder.proj"] = lost
        self.refuses(save(checkpoint, path), r"unexpected entries: decoder\.proj")
        checkpoint["model_state_dict"] = {f"module.{name}": tensor for name, tensor in state.items()}
        self.refuses(save(checkpoint, path), r"lacks encoder\.positional_embedding, .* and \d+ more")

    @pytest.mark.parametrize(
        "value",
        [
            3,
            torch.zeros(24, 25).half(),
            torch.zeros(24).half(),
            torch.zeros(24, 24, dtype=torch.int8),
            torch.zeros(24, 24, dtype=torch.complex64),
            torch.zeros(24, 24).to_sparse(),
            torch.zeros(24, 24, device="meta"),
            torch.zeros(1).half().expand(24, 24),
        ],
        ids=["number", "shape", "vector", "int8", "complex", "sparse", "meta", "overlap"],
    )
    def test_bad_tensors(self, checkpoint, path, value):
        checkpoint["model_state_dict"]["encoder.blocks.0.attn.out.weight"] = value
        self.refuses(save(checkpoint, path), r"bad tensor encoder\.blocks\.0\.attn\.out\.weight")


class Server:
    """Serves one checkpoint under a file: URL that carries its checksum, as the official ones do."""

    def __init__(self, root, data):
        self.data = data
        folder = root / "server" / hashlib.sha256(data).hexdigest()
        folder.mkdir(parents=True)
        self.file = folder / "tiny.pt"
        self.file.write_bytes(data)
        self.url = self.file.as_uri()
        self.cache = root / "cache"
        self.target = self.cache / "tiny.pt"

    def files(self):
        return sorted(path.name for path in self.cache.iterdir() if not path.name.startswith("."))


@pytest.fixture
def server(tmp_path, checkpoint, monkeypatch):
    save(checkpoint, tmp_path / "model.pt")
    server = Server(tmp_path, (tmp_path / "model.pt").read_bytes())
    monkeypatch.setitem(torchwhisper._MODELS, "tiny", server.url)
    return server


class TestDownload:
    @pytest.mark.parametrize("in_memory", [False, True])
    def test_fetches_once(self, server, in_memory, capsys):
        arguments = ("tiny", "cpu", str(server.cache), in_memory)
        model = torchwhisper.load_model(*arguments)
        assert "100%" in capsys.readouterr().err
        assert server.files() == ["tiny.pt"] and server.target.read_bytes() == server.data
        server.file.unlink()
        assert_same_model(torchwhisper.load_model(*arguments), model)

    def test_official_models_get_their_alignment_heads(self, server):
        model = torchwhisper.load_model("tiny", download_root=str(server.cache))
        expected = whisper.model.Whisper(model.dims)
        expected.set_alignment_heads(whisper._ALIGNMENT_HEADS["tiny"])
        assert torch.equal(model.alignment_heads.to_dense(), expected.alignment_heads.to_dense())
        assert model.alignment_heads.is_sparse and model.alignment_heads.indices().shape[1] == 6

    def test_returns_path_or_bytes(self, server):
        assert torchwhisper._download(server.url, str(server.cache), False) == str(server.target)
        assert torchwhisper._download(server.url, str(server.cache), True) == server.data

    def test_default_folder(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        torchwhisper.load_model("tiny")
        assert (tmp_path / "xdg" / "whisper" / "tiny.pt").is_file()

    def test_a_damaged_file_is_replaced(self, server):
        server.cache.mkdir()
        server.target.write_bytes(server.data[:-5] + b"wrong")
        with pytest.warns(
            UserWarning, match=r"tiny\.pt exists, but the SHA256 checksum does not match; re-downl"
        ):
            torchwhisper.load_model("tiny", download_root=str(server.cache))
        assert server.files() == ["tiny.pt"] and server.target.read_bytes() == server.data

    def test_wrong_data_leave_nothing(self, server):
        server.file.write_bytes(server.data + b"more")
        with pytest.raises(RuntimeError, match="but the SHA256 checksum does not not match"):
            torchwhisper.load_model("tiny", download_root=str(server.cache))
        assert server.files() == []

    def test_a_folder_in_the_way(self, server):
        server.target.mkdir(parents=True)
        with pytest.raises(RuntimeError, match="exists and is not a regular file"):
            torchwhisper.load_model("tiny", download_root=str(server.cache))


class TestExtension:
    """What `import torchwhisper` says when the compiled part cannot be used."""

    def error(self, tmp_path, compiled):
        package = tmp_path / "torchwhisper"
        package.mkdir()
        (package / "__init__.py").write_text("from . import _extension")
        (package / "_extension.py").write_text((PACKAGE / "_extension.py").read_text())
        if compiled is not None:
            (package / "_C.py").write_text(compiled)
        run = subprocess.run(
            [sys.executable, "-c", "import torchwhisper"], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert run.returncode == 1
        return run.stderr.splitlines()[-1]

    def test_missing(self, tmp_path):
        assert "is missing for this Python: build it with" in self.error(tmp_path, None)

    def test_not_loadable(self, tmp_path):
        message = self.error(tmp_path, "raise ImportError('undefined symbol: _ZN3c10')")
        assert "undefined symbol: _ZN3c10" in message and f"with torch {torch.__version__}" in message

    def test_older_than_its_record_of_torch(self, tmp_path):
        assert "is older than its Python part: rebuild it with" in self.error(tmp_path, "")

    def test_built_with_another_torch(self, tmp_path):
        message = self.error(tmp_path, "torch_version = '2.9.1'")
        assert (
            f"built with torch 2.9.1, but torch {torch.__version__} is installed: install torch 2.9"
            in message
        )
