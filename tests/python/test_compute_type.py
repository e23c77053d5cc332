"""load_model(compute_type=...): what is stored, what is computed, what is refused."""

import copy
import io
import json
import pickle
import warnings
import zipfile
from unittest import mock

import numpy as np
import pytest
import torch
import whisper
from conftest import ROOT
from test_weights_changed import WAYS

import torchwhisper
from torchwhisper import _C, _bundled, _compute_type, _engine, timing
from torchwhisper.decoding import DecodingOptions, decode
from torchwhisper.tokenizer import get_tokenizer

CPU = torch.device("cpu")
JFK = str(ROOT / "examples" / "jfk.flac")
SAID = "ask not what your country can do for you"
ON_CPU = [
    pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason or ""))
    for name in ("float32", "bfloat16", "int8")
    for reason in [_C.compute_type_obstacle(name)]
]
# Rounded weights move the mean log-probability of a sure text by less than this.
ROUNDED = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.1}

every_type = pytest.mark.parametrize("name", ON_CPU)
every_rounding = pytest.mark.parametrize("name", ON_CPU[1:])
needs_int8 = pytest.mark.skipif(_C.compute_type_obstacle("int8") is not None, reason="no int8 here")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The bundled model as a checkpoint in half precision, as the official ones are."""
    found = tmp_path_factory.mktemp("models") / "demo.pt"
    torch.save(_bundled.load("demo"), found)
    return str(found)


@pytest.fixture(scope="module")
def models(path):
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = torchwhisper.load_model(path, device="cpu", compute_type=name)
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def jfk():
    """The log-mel window of the clip, without a batch axis."""
    samples = torchwhisper.pad_or_trim(torchwhisper.load_audio(JFK))
    return torchwhisper.log_mel_spectrogram(samples)


def transcribe(model, **options):
    with warnings.catch_warnings(), _engine.require():
        warnings.simplefilter("ignore")
        return torchwhisper.transcribe(model, JFK, **options)


# --- what is stored ---------------------------------------------------------------------------------------


def is_mapped(tensor, file):
    """Whether the tensor's memory is a part of the file."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            begin, end = (int(place, 16) for place in fields[0].split("-"))
            if begin <= tensor.data_ptr() < end:
                return fields[-1] == file
    return False


@every_type
def test_parameters_are_the_checkpoint_s_own(path, models, name):
    model = models(name)
    stored = _bundled.load("demo")["model_state_dict"]
    assert model.state_dict().keys() == stored.keys()
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float16 and torch.equal(tensor, stored[key]), key
        assert is_mapped(tensor, path), key
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.compute_type == name
    assert torch.equal(model.alignment_heads.to_dense(), models("default").alignment_heads.to_dense())


def test_default_parameters_are_float32_copies_that_can_be_trained(path, models):
    model = models("default")
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32 and parameter.requires_grad
    assert not is_mapped(model.decoder.token_embedding.weight, path)
    assert model.training and model.compute_type == "default"


def test_other_kinds_of_files(path, models, tmp_path):
    reference = models("float32").state_dict()
    torchwhisper.save_model(models("float32"), tmp_path / "model.safetensors")
    torchwhisper.save_model(models("float32"), tmp_path / "folder")
    torch.save(_bundled.load("demo"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(path) as packed, zipfile.ZipFile(tmp_path / "small.pt", "w", 8) as small:
        for entry in packed.namelist():
            small.writestr(entry, packed.read(entry))
    for source, options in (
        *((tmp_path / each, {}) for each in ("model.safetensors", "folder", "old.pt", "small.pt")),
        *((each, {"in_memory": True}) for each in (path, tmp_path / "model.safetensors")),
        ("demo", {}),
    ):
        model = torchwhisper.load_model(source, device="cpu", compute_type="float32", **options)
        for key, tensor in model.state_dict().items():
            assert tensor.dtype == torch.float16 and torch.equal(tensor, reference[key]), (source, key)
        if options:
            assert not is_mapped(model.decoder.token_embedding.weight, str(source))
    assert is_mapped(
        torchwhisper.load_model(
            tmp_path / "model.safetensors", device="cpu", compute_type="float32"
        ).decoder.token_embedding.weight,
        str(tmp_path / "model.safetensors"),
    )


def test_the_file_is_never_written(path):
    with open(path, "rb") as file:
        before = file.read()
    model = torchwhisper.load_model(path, device="cpu", compute_type="float32")
    with torch.no_grad():
        model.decoder.token_embedding.weight.zero_()
    with open(path, "rb") as file:
        assert file.read() == before
    again = torchwhisper.load_model(path, device="cpu", compute_type="float32")
    assert again.decoder.token_embedding.weight.any()


# --- what is computed -------------------------------------------------------------------------------------


def test_float32_gives_the_very_tokens_of_the_default(models):
    for options in ({}, {"beam_size": 5}, {"word_timestamps": True}):
        got, wanted = (transcribe(models(name), **options) for name in ("float32", "default"))
        assert got["text"] == wanted["text"]
        for segment, expected in zip(got["segments"], wanted["segments"], strict=True):
            assert segment["tokens"] == expected["tokens"]
            assert segment["avg_logprob"] == pytest.approx(expected["avg_logprob"], abs=1e-5)
            times = [(word["start"], word["end"]) for word in segment.get("words", [])]
            assert times == [(word["start"], word["end"]) for word in expected.get("words", [])]


@every_type
@pytest.mark.parametrize(
    "options", [{"beam_size": 5}, {"word_timestamps": True}, {"temperature": 0.2, "best_of": 2}], ids=str
)
def test_every_type_hears_the_clip(models, name, options):
    torch.manual_seed(0)
    result = transcribe(models(name), **options)
    assert result["language"] == "en"
    assert SAID in result["text"].lower()
    words = [word for segment in result["segments"] for word in segment.get("words", [])]
    assert all(0 <= word["start"] < word["end"] <= 11 for word in words)
    assert bool(words) == ("word_timestamps" in options)


@every_rounding
def test_words_lie_where_they_lie_in_float32(models, name):
    def words(model):
        found = transcribe(model, word_timestamps=True)["segments"]
        return [word for segment in found for word in segment["words"]]

    got, wanted = words(models(name)), words(models("float32"))
    assert [word["word"] for word in got] == [word["word"] for word in wanted]
    moved = [abs(a["start"] - b["start"]) for a, b in zip(got, wanted, strict=True)]
    assert np.median(moved) <= 0.02 and max(moved) <= 0.3


@every_rounding
def test_weights_are_rounded_and_no_more_than_that(models, jfk, name):
    options = DecodingOptions(language="en", fp16=False)
    got, wanted = (decode(models(each), jfk, options) for each in (name, "float32"))
    assert 0 < abs(got.avg_logprob - wanted.avg_logprob) < ROUNDED[name]
    distance = (got.audio_features - wanted.audio_features).norm() / wanted.audio_features.norm()
    assert 0 < distance < 0.2


@every_type
def test_batches(models, jfk, name):
    other = jfk.roll(200, -1)
    options = DecodingOptions(language="en", fp16=False, sample_len=20)
    together = decode(models(name), torch.stack([jfk, other]), options)
    assert [r.tokens for r in together] == [decode(models(name), one, options).tokens for one in (jfk, other)]
    texts = [result["text"] for result in transcribe_all(models(name), [JFK, JFK])]
    assert texts == [transcribe(models(name))["text"]] * 2


def transcribe_all(model, audio):
    with warnings.catch_warnings(), _engine.require():
        warnings.simplefilter("ignore")
        return torchwhisper.transcribe(model, audio)


@every_type
def test_language_detection(models, jfk, name):
    _, probs = torchwhisper.detect_language(models(name), jfk)
    assert max(probs, key=probs.get) == "en"
    result = decode(models(name), jfk, task="lang_id", fp16=False)
    assert result.language == "en"


@every_type
def test_alignment_alone(models, jfk, name):
    tokenizer = get_tokenizer(True, language="en")
    found = timing.find_alignment(models(name), tokenizer, tokenizer.encode(" " + SAID), jfk, 1100)
    assert [word.word for word in found][:3] == [" ask", " not", " what"]


@every_type
def test_fp16_on_a_cpu_is_float32_with_a_warning(models, jfk, name):
    with pytest.warns(UserWarning, match="FP16 is not supported on CPU; using FP32 instead") as warned:
        result = decode(models(name), jfk, language="en", sample_len=4)
    assert result.audio_features.dtype == torch.float32
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="FP16 is not supported on CPU; using FP32 instead") as warned:
        torchwhisper.transcribe(models(name), JFK, language="en", sample_len=4)
    assert len(warned) == 1


@every_type
def test_the_python_path_casts_what_it_reads(models, jfk, name):
    """Hooked models compute in float32, whatever they were loaded for."""
    options = DecodingOptions(language="en", fp16=False, sample_len=20)
    model, seen = models(name), []
    wanted = decode(models("float32"), jfk, options)
    hook = model.decoder.blocks[0].mlp.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    try:
        assert torchwhisper.explain(model).startswith("Python path: ")
        got = decode(model, jfk, options)
    finally:
        hook.remove()
    assert set(seen) == {torch.float32}
    assert got.tokens == wanted.tokens
    assert got.avg_logprob == pytest.approx(wanted.avg_logprob, abs=1e-4)


@every_type
def test_explain_names_the_type(models, name):
    sentence = "C++ engine: the modules are plain, on cpu, in torch.float16, computed in {}."
    assert torchwhisper.explain(models(name)) == sentence.format(name)
    assert "computed" not in torchwhisper.explain(models("default"))


# --- weights that change ----------------------------------------------------------------------------------

TRAINED = {name for name in WAYS if "step" in name}
LOADED_ANEW = {"module_replaced", "half_and_back"}


@needs_int8
@pytest.mark.parametrize("way", sorted(WAYS.keys() - TRAINED - LOADED_ANEW))
def test_changed_weights_are_seen(models, jfk, way):
    """Every way that needs no gradients, against a model that has only ever seen the changed weights."""
    options = DecodingOptions(language="en", fp16=False, sample_len=6)
    torch.manual_seed(0)
    model = copy.deepcopy(models("int8"))
    with _engine.require():
        before = decode(model, jfk, options)
        WAYS[way](model, jfk)
        after = decode(model, jfk, options)
        fresh = copy.deepcopy(model)
        wanted = decode(fresh, jfk, options)
    assert torch.equal(after.audio_features, wanted.audio_features)
    assert (after.tokens, after.avg_logprob) == (wanted.tokens, wanted.avg_logprob)
    assert before.avg_logprob != after.avg_logprob


@needs_int8
@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("place", ["decoder.blocks.0.mlp.0.weight", "encoder.positional_embedding"])
def test_mapped_weights_that_change_are_seen(path, jfk, place, writes):
    options = DecodingOptions(language="en", fp16=False, sample_len=6)
    model = torchwhisper.load_model(path, device="cpu", compute_type="int8")
    for _ in range(writes):
        before = decode(model, jfk, options)
        # No version counter moves.
        np.multiply(model.state_dict()[place].numpy(), 1.25, out=model.state_dict()[place].numpy())
        after = decode(model, jfk, options)
        assert before.avg_logprob != after.avg_logprob
        assert after.avg_logprob == decode(copy.deepcopy(model), jfk, options).avg_logprob


@every_type
def test_nothing_changed_is_seen_too(models, jfk, name):
    with _engine.session(models(name), torch.float32) as first:
        pass
    decode(models(name), jfk, language="en", fp16=False, sample_len=2)
    with _engine.session(models(name), torch.float32) as second:
        assert second is first


# --- what becomes of such a model -------------------------------------------------------------------------


@every_type
def test_copies_and_conversions(models, jfk, name):
    options = DecodingOptions(language="en", fp16=False, sample_len=12)
    model = models(name)
    wanted = decode(model, jfk, options)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model).to("cpu"),
        copy.deepcopy(model).float(),
        copy.deepcopy(model).half(),
        copy.deepcopy(model).eval(),
    ):
        assert other.compute_type == name
        assert str(next(other.parameters()).dtype) in torchwhisper.explain(other)
        got = decode(other, jfk, options)
        assert (got.tokens, got.avg_logprob) == (wanted.tokens, pytest.approx(wanted.avg_logprob, abs=1e-5))


@every_type
def test_saved_models_are_whole(models, name, tmp_path):
    torchwhisper.save_model(models(name), tmp_path / "saved.pt")
    reference = whisper.load_model(str(tmp_path / "saved.pt"), device="cpu")
    assert torch.equal(
        reference.decoder.token_embedding.weight, models(name).decoder.token_embedding.weight.float()
    )


@every_type
@pytest.mark.parametrize("begin", [lambda m: m.train(), lambda m: m.requires_grad_()])
def test_training_is_refused(models, name, begin):
    with pytest.raises(RuntimeError, match=f"compute_type='{name}' is for inference: .*'default'"):
        begin(models(name))
    assert not models(name).training


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float64", "INT8", "", None, "int8_float16"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="expected one of default, float32, float16, bfloat16, int8"):
        torchwhisper.load_model("demo", device="cpu", compute_type=name)


def test_float16_on_a_cpu(models, jfk):
    with pytest.raises(ValueError, match="a CPU does not compute float16 fast: take "):
        torchwhisper.load_model("demo", device="cpu", compute_type="float16")


def test_what_this_processor_lacks():
    lacking = "bfloat16 needs a processor with what this one lacks: take int8 or float32"
    with (
        mock.patch.object(_C, "compute_type_obstacle", lambda name: lacking),
        pytest.raises(ValueError, match=f"compute_type is 'bfloat16' and the device is cpu, but {lacking}"),
    ):
        _compute_type.check("bfloat16", CPU)


def test_int8_on_a_gpu():
    with pytest.raises(ValueError, match="int8 is computed by a CPU only: take float16 or bfloat16"):
        _compute_type.check("int8", torch.device("cuda"))
    for name in ("default", "float32", "float16", "bfloat16"):
        _compute_type.check(name, torch.device("cuda"))


def test_a_type_that_the_device_of_the_moment_does_not_compute(models, jfk):
    model = copy.deepcopy(models("float32"))
    model.compute_type = "float16"  # as if it had come from a GPU
    with pytest.raises(ValueError, match="a CPU does not compute float16 fast"):
        decode(model, jfk, language="en")


def test_the_command(tmp_path):
    def run(*argv):
        import importlib

        with mock.patch("sys.argv", ["torchwhisper", JFK, "--model", "demo", "--device", "cpu", *argv]):
            try:
                with warnings.catch_warnings(), mock.patch("sys.stderr", io.StringIO()) as err:
                    warnings.simplefilter("ignore")
                    importlib.import_module("torchwhisper.transcribe").cli()
            except SystemExit as leaving:
                return leaving.code, err.getvalue()
        return 0, ""

    assert run("--compute_type", "float32", "-o", str(tmp_path), "-f", "json")[0] == 0
    assert SAID in json.loads((tmp_path / "jfk.json").read_text())["text"].lower()
    status, err = run("--compute_type", "float16", "-o", str(tmp_path))
    assert status == 1 and "a CPU does not compute float16 fast: take" in err
    status, err = run("--compute_type", "int4", "-o", str(tmp_path))
    assert status == 2 and "int8" in err


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@needs_cuda
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_on_a_gpu(path, name):
    model = torchwhisper.load_model(path, device="cuda", compute_type=name)
    dtype = getattr(torch, name)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    result = torchwhisper.transcribe(model, JFK, word_timestamps=True)
    assert SAID in result["text"].lower()
    mel = torch.zeros(1, 80, 3000, device="cuda")
    assert decode(model, mel, language="en", sample_len=2)[0].audio_features.dtype == dtype
