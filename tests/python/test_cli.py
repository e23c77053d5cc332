import contextlib
import importlib
import io
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import whisper
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import torchwhisper

# However busy the machine is.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The packages' attributes of this name are the functions.
OURS = importlib.import_module("torchwhisper.transcribe")
REFERENCE = importlib.import_module("whisper.transcribe")

truth = st.sampled_from(["True", "False", "yes"])
whole = st.sampled_from(["None", "0", "1", "7", "1.5", "many"])
number = st.sampled_from(["None", "0", "0.5", "-1", "1e3", "many"])
words = st.sampled_from(["", "-1", "1,2", "Ada, Bob", "¿(", "None", "--"])
FLAGS = {
    "--model": st.sampled_from(["tiny", "tiny.en", "base.en", "no-such-model", ".", "turbo"]),
    "--model_dir": st.just("models"),
    "--device": st.sampled_from(["cpu", "cuda", "teapot"]),
    "--output_format": st.sampled_from(["txt", "vtt", "srt", "tsv", "json", "all", "doc"]),
    "-f": st.just("srt"),
    "--verbose": truth,
    "--task": st.sampled_from(["transcribe", "translate", "sing"]),
    "--language": st.sampled_from(["en", "German", "Haitian Creole", "Mandarin", "german", "tlh", "None"]),
    "--temperature": st.sampled_from(["0", "0.3", "1", "hot"]),
    "--best_of": whole,
    "--beam_size": whole,
    "--patience": number,
    "--length_penalty": number,
    "--suppress_tokens": words,
    "--initial_prompt": words,
    "--carry_initial_prompt": truth,
    "--condition_on_previous_text": truth,
    "--fp16": truth,
    "--temperature_increment_on_fallback": st.sampled_from(["None", "0.2", "0.7", "3"]),
    "--compression_ratio_threshold": number,
    "--logprob_threshold": number,
    "--no_speech_threshold": number,
    "--word_timestamps": truth,
    "--prepend_punctuations": words,
    "--append_punctuations": words,
    "--highlight_words": truth,
    "--max_line_width": whole,
    "--max_line_count": whole,
    "--max_words_per_line": whole,
    "--threads": st.sampled_from(["0", "1", "3", "many"]),
    "--clip_timestamps": words,
    "--hallucination_silence_threshold": number,
    "--hallu": st.just("2"),  # an abbreviation
}
flags = st.lists(st.sampled_from(sorted(FLAGS)), max_size=6, unique=True).flatmap(
    lambda names: st.tuples(*(FLAGS[name].map(lambda value, name=name: [name, value]) for name in names))
)
worded = flags.map(lambda given: [["--word_timestamps", "True"], *given])


def captured(package, module, argv):
    """What a command line makes of its arguments: everything that it loads, transcribes and writes."""
    calls = []

    def note(name, answer=None):
        def call(*args, **kwargs):
            if module is OURS and name == "load_model":  # which the reference does not have
                assert kwargs.pop("compute_type") == "default"
            calls.append((name, args, kwargs))
            return answer

        return call

    with (
        mock.patch.object(sys, "argv", ["whisper", *argv]),
        mock.patch.object(package, "load_model", note("load_model", "the model")),
        mock.patch.object(module, "transcribe", note("transcribe", "the result")),
        mock.patch.object(module, "get_writer", note("get_writer", note("write"))),
        mock.patch.object(module.torch, "set_num_threads", note("set_num_threads")),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            module.cli()
            status = 0
        except SystemExit as leaving:
            status = leaving.code
    messages = sorted(str(w.message) for w in warned if w.category is UserWarning)
    return (status, calls, messages) if status == 0 else status


@settings(RELAXED, max_examples=400)
@given(st.one_of(flags, worded), st.lists(st.sampled_from(["a.wav", "b c.mp3"]), max_size=2))
@example([], ["a.wav"])
@example([["--model", "base.en"], ["--language", "de"]], ["a.wav"])
def test_arguments_mean_what_they_mean_to_the_reference(given, files):
    with tempfile.TemporaryDirectory() as folder:
        argv = [*files, "-o", str(Path(folder, "new")), *(part for flag in given for part in flag)]
        assert captured(torchwhisper, OURS, argv) == captured(whisper, REFERENCE, argv)


def test_defaults_are_the_reference_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, calls, _ = captured(torchwhisper, OURS, ["a.wav"])
    assert (status, calls) == captured(whisper, REFERENCE, ["a.wav"])[:2]
    assert calls[0][1] == ("turbo",)
    assert calls[1][1] == ("all", ".")


def run(*argv):
    """Runs the command in this process: exit status, what it wrote to stdout and to stderr."""
    with (
        mock.patch.object(sys, "argv", ["torchwhisper", *map(str, argv)]),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            OURS.cli()
            status = 0
        except SystemExit as leaving:
            status = leaving.code
    return status, out.getvalue(), err.getvalue()


def one_sentence(err):
    return len(err.splitlines()) == 1 and "Traceback" not in err


@pytest.fixture
def no_model():
    with mock.patch.object(torchwhisper, "load_model", lambda *args, **kwargs: "the model"):
        yield


def test_a_missing_recording_costs_one_line(tmp_path):
    command = [sys.executable, "-m", "torchwhisper", "no-such.wav", "--model", "demo", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert one_sentence(done.stderr) and done.stderr.startswith("Skipping no-such.wav due to RuntimeError: ")


@pytest.mark.usefixtures("no_model")
class TestExitStatus:
    def test_a_recording_that_fails_does_not_stop_the_others(self, tmp_path):
        def transcribe(model, path, **kwargs):
            if "bad" in path:
                raise RuntimeError("Failed to load audio:\n  it is bad")
            return {"segments": [], "text": "", "language": "en"}

        with mock.patch.object(OURS, "transcribe", transcribe):
            status, _, err = run("bad.wav", "good.wav", "-o", tmp_path, "-f", "txt")
        assert status == 1
        assert err == "Skipping bad.wav due to RuntimeError: Failed to load audio: it is bad\n"
        assert [path.name for path in tmp_path.iterdir()] == ["good.txt"]

    def test_a_traceback_only_for_those_who_ask(self, tmp_path, caplog):
        with (
            mock.patch.object(OURS, "transcribe", side_effect=ValueError("no")),
            caplog.at_level("DEBUG", logger="torchwhisper"),
        ):
            _, _, err = run("bad.wav", "-o", tmp_path)
        assert one_sentence(err)
        assert caplog.records[0].exc_info[0] is ValueError

    def test_an_interrupt(self, tmp_path):
        with mock.patch.object(OURS, "transcribe", side_effect=KeyboardInterrupt):
            assert run("a.wav", "-o", tmp_path) == (130, "", "Interrupted\n")

    def test_an_output_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        status, _, err = run("a.wav", "-o", tmp_path / "file")
        assert status == 1 and one_sentence(err) and "file" in err

    @pytest.mark.parametrize("increment", ["0", "-0.2", "nan"])
    def test_temperatures_that_never_rise(self, increment):
        status, _, err = run("a.wav", "--temperature_increment_on_fallback", increment)
        assert status == 2 and "--temperature_increment_on_fallback" in err

    @pytest.mark.parametrize(
        ("option", "value"), [("--batch_size", "0"), ("--batch_size", "-1"), ("--temperature", "nan"),
                              ("--temperature", "inf")]
    )  # fmt: skip
    def test_numbers_that_make_no_sense(self, option, value):
        status, _, err = run("a.wav", option, value)
        assert status == 2 and f"{option} is {value}, expected" in err

    def test_options_that_the_reference_stumbles_over(self, tmp_path):
        with mock.patch.object(OURS, "transcribe") as transcribe:
            transcribe.return_value = {"segments": [], "text": "", "language": "en"}
            assert run("a.wav", "-o", tmp_path, "--threads", "None")[0] == 0
            assert run("a.wav", "-o", tmp_path, "--temperature", "1.5")[0] == 0
        assert transcribe.call_args.kwargs["temperature"] == [1.5]

    def test_a_model_that_does_not_exist(self):
        status, _, err = run("a.wav", "--model", "no-such-model")
        assert status == 2
        assert "'no-such-model' is neither demo, nor one of tiny.en, tiny," in err


def demo(*argv):
    return run(*argv, "--model", "demo", "--device", "cpu")


@pytest.fixture(scope="module")
def demo_model():
    return torchwhisper.load_model("demo", device="cpu")


@pytest.fixture
def one_load(demo_model):
    with mock.patch.object(torchwhisper, "load_model", lambda *args, **kwargs: demo_model):
        yield


@pytest.mark.usefixtures("one_load")
class TestBadInput:
    @pytest.mark.parametrize("content", [None, "folder", b"", b"plain text", b"RIFF\0\0\0\0WAVE"])
    def test_files_that_are_no_audio(self, tmp_path, content):
        path = tmp_path / "talk.wav"
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        status, out, err = demo(path, "-o", tmp_path / "out")
        assert status == 1 and out == "" and one_sentence(err)
        assert err.startswith(f"Skipping {path} due to RuntimeError: Failed to load audio: ")
        assert list((tmp_path / "out").iterdir()) == []

    def test_samples_that_are_not_numbers(self, tmp_path):
        path = tmp_path / "nan.wav"
        scipy_io = pytest.importorskip("scipy.io.wavfile")
        scipy_io.write(path, 16000, np.full(16000, np.nan, np.float32))
        status, _, err = demo(path, "-o", tmp_path / "out")
        assert status == 1 and one_sentence(err)
        assert list((tmp_path / "out").iterdir()) == []

    def test_no_samples_at_all(self, tmp_path):
        path = tmp_path / "empty.wav"
        scipy_io = pytest.importorskip("scipy.io.wavfile")
        scipy_io.write(path, 16000, np.zeros(0, np.int16))
        status, _, err = demo(path, "-o", tmp_path / "out", "--language", "en")
        assert (status, err) == (0, "")
        assert json.loads((tmp_path / "out" / "empty.json").read_text()) == {
            "text": "",
            "segments": [],
            "language": "en",
        }


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", {"dims": {}}, {"dims": {}, "model_state_dict": {}}]
)
def test_checkpoints_that_are_none(tmp_path, content):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    status, _, err = run("a.wav", "--model", path, "-o", tmp_path / "out")
    assert status == 1 and one_sentence(err)
    assert str(path) in err
    assert not list(tmp_path.glob("out/*"))


def test_help_names_every_flag_and_the_program():
    command = [sys.executable, "-m", "torchwhisper", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: torchwhisper ")
    assert all(flag in done.stdout for flag in FLAGS if flag != "--hallu")


def test_files_equal_the_reference(tmp_path, shared):
    recording, checkpoint = shared("audio/short_en_12s.flac"), shared("models/demo.pt")
    options = [recording, "--device", "cpu", "--model", checkpoint, "--word_timestamps", "True", "-o"]
    status, out, err = run(*options, tmp_path / "ours")
    assert (status, err) == (0, "")
    with (
        mock.patch.object(sys, "argv", ["whisper", *map(str, options), str(tmp_path / "theirs")]),
        contextlib.redirect_stdout(io.StringIO()) as expected,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        REFERENCE.cli()
    assert out == expected.getvalue()
    for extension in ("txt", "vtt", "srt", "tsv"):
        name = f"short_en_12s.{extension}"
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    ours, theirs = (
        json.loads((tmp_path / side / "short_en_12s.json").read_text()) for side in ("ours", "theirs")
    )
    assert ours["text"] == theirs["text"]


def test_the_demo_model_by_name(tmp_path, shared):
    recording = shared("audio/short_en_12s.flac")
    status, out, _ = demo(recording, "-o", tmp_path, "--beam_size", "None", "-f", "txt")
    assert status == 0
    assert (tmp_path / "short_en_12s.txt").read_text().strip()
    assert "Detected language: English" in out
