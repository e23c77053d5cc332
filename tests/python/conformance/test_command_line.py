"""The flags of the command, what they mean to transcribe(), and how it ends."""

import contextlib
import io
import json
import re
import sys
import warnings
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

WORDS = ["--word_timestamps", "True"]
RESULT = {
    "text": " a b",
    "language": "en",
    "segments": [
        {
            "start": 0.0,
            "end": 1.0,
            "text": " a b",
            "words": [
                {"word": " a", "start": 0.0, "end": 0.5, "probability": 0.9},
                {"word": " b", "start": 0.5, "end": 1.0, "probability": 0.9},
            ],
        }
    ],
}


@pytest.fixture
def command(package, tmp_path, monkeypatch):
    """Runs the command with a model that answers RESULT: its status, calls and messages."""
    monkeypatch.chdir(tmp_path)

    def run(*argv, transcribe=None):
        seen = SimpleNamespace(load=None, transcribed=[], threads=None, messages=[])

        def load_model(*args, **kwargs):
            seen.load = (args, kwargs)
            return "the model"

        def answer(model, path, **kwargs):
            seen.transcribed.append((model, path, kwargs))
            return transcribe(path) if transcribe else RESULT

        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(package.root, "load_model", load_model),
            mock.patch.object(package.transcribe, "transcribe", answer),
            mock.patch.object(torch, "set_num_threads", lambda n: setattr(seen, "threads", n)),
            mock.patch.object(sys, "argv", ["whisper", *argv]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always")
            try:
                package.transcribe.cli()
                seen.status = 0
            except SystemExit as leaving:
                seen.status = leaving.code
        seen.messages = [(w.category, str(w.message)) for w in warned if w.category is UserWarning]
        seen.out, seen.err = out.getvalue(), err.getvalue()
        seen.options = seen.transcribed[0][2] if seen.transcribed else None
        return seen

    return run


# fmt: off
FLAGS = (
    "model", "model_dir", "device", "output_dir", "output_format", "verbose", "task", "language",
    "temperature", "best_of", "beam_size", "patience", "length_penalty", "suppress_tokens", "initial_prompt",
    "carry_initial_prompt", "condition_on_previous_text", "fp16", "temperature_increment_on_fallback",
    "compression_ratio_threshold", "logprob_threshold", "no_speech_threshold", "word_timestamps",
    "prepend_punctuations", "append_punctuations", "highlight_words", "max_line_width", "max_line_count",
    "max_words_per_line", "threads", "clip_timestamps", "hallucination_silence_threshold",
)
# fmt: on


def test_there_are_32_flags(command, package):
    assert len(FLAGS) == 32
    ours = () if package.is_reference else ("compute_type", "batch_size")
    help_text = command("--help").out
    assert set(re.findall(r"--(\w+) ", help_text)) == {*FLAGS, *ours, "help"}
    assert command("--version").status == 2  # there is none


def test_defaults(command, package, tmp_path):
    done = command("talk.flac")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = {} if package.is_reference else {"compute_type": "default"}
    assert done.load == (("turbo",), {"device": device, "download_root": None, **ours})
    assert done.status == 0 and done.threads is None
    temperature = done.options.pop("temperature")
    assert temperature == tuple(np.arange(0, 1.0 + 1e-6, 0.2)) and len(temperature) == 6
    assert done.options == {
        **{"verbose": True, "task": "transcribe", "language": None, "best_of": 5, "beam_size": 5},
        **{"patience": None, "length_penalty": None, "suppress_tokens": "-1", "initial_prompt": None},
        **{"carry_initial_prompt": False, "condition_on_previous_text": True, "fp16": True},
        **{"compression_ratio_threshold": 2.4, "logprob_threshold": -1.0, "no_speech_threshold": 0.6},
        **{"word_timestamps": False, "prepend_punctuations": "\"'“¿([{-"},
        **{"append_punctuations": "\"'.。,，!！?？:：”)]}、", "clip_timestamps": "0"},  # noqa: RUF001
        **{"hallucination_silence_threshold": None},
    }
    assert {path.name for path in tmp_path.iterdir()} == {
        f"talk.{e}" for e in ("txt", "vtt", "srt", "tsv", "json")
    }


@pytest.mark.parametrize(
    ("argv", "option", "value"),
    [
        (["--best_of", "None"], "best_of", None),
        (["--beam_size", "3"], "beam_size", 3),
        (["--patience", "1.5"], "patience", 1.5),
        (["--logprob_threshold", "None"], "logprob_threshold", None),
        (["--fp16", "False"], "fp16", False),
        (["--suppress_tokens", ""], "suppress_tokens", ""),
        (["--language", "Haitian Creole"], "language", "Haitian Creole"),
        (["--language", "yue"], "language", "yue"),
        (["--task", "translate"], "task", "translate"),
        (["--clip_timestamps", "1,2"], "clip_timestamps", "1,2"),
        (["--hallu", "2"], "hallucination_silence_threshold", 2.0),  # an abbreviation
        (["--no_speech", "0.5"], "no_speech_threshold", 0.5),
        (["--com", "0.5"], "compression_ratio_threshold", 0.5),
        (["--comp=None"], "compression_ratio_threshold", None),
        (["--cond", "False"], "condition_on_previous_text", False),
        (["--pre=("], "prepend_punctuations", "("),
        (["--la", "de"], "language", "de"),
        (["--temperature_increment_on_fallback", "None", "--temperature", "0.4"], "temperature", [0.4]),
        (["--temperature", "0.5", "--temperature_inc", "0.5"], "temperature", (0.5, 1.0)),
        (["--initial_prompt", "Ada, Bob"], "initial_prompt", "Ada, Bob"),
    ],
)
def test_values(command, argv, option, value):
    assert command("talk.flac", *argv).options[option] == value


def test_temperatures_are_numpys(command):
    assert repr(float(command("talk.flac").options["temperature"][3])) == "0.6000000000000001"


def test_threads_and_device_and_folder(command, package):
    done = command("talk.flac", "--threads", "3", "--device", "cpu", "--model_dir", "m", "--model", "tiny")
    assert done.threads == 3
    ours = {} if package.is_reference else {"compute_type": "default"}
    assert done.load == (("tiny",), {"device": "cpu", "download_root": "m", **ours})


@pytest.mark.parametrize(
    "argv",
    [
        ["--fp16", "yes"],
        ["--verbose", "1"],
        ["--best_of", "many"],
        ["--temperature", "None"],
        ["--patience", "None"],
        ["--language", "german"],
        ["--language", "tlh"],
        ["--task", "sing"],
        ["--output_format", "doc"],
        ["--model", "no-such-model"],
        ["--no_such_flag"],
        ["--max_line", "3"],  # ambiguous
        ["--highlight_words", "True"],
        ["--max_line_width", "20"],
        ["--max_line_count", "2"],
        ["--max_words_per_line", "2"],
    ],
    ids=" ".join,
)
def test_arguments_that_are_refused(command, argv):
    done = command("talk.flac", *argv)
    assert done.status == 2 and not done.transcribed
    assert "usage: " in done.err and "error: " in done.err


def test_a_model_may_be_a_file(command, tmp_path):
    (tmp_path / "mine.pt").touch()
    assert command("talk.flac", "--model", "mine.pt").load[0] == ("mine.pt",)


def test_no_recordings(command):
    assert command().status == 2


def test_line_options_need_words(command):
    assert "--max_line_width requires --word_timestamps True" in command("a.wav", "--max_line_width", "9").err


def test_an_english_model_and_another_language(command):
    done = command("talk.flac", "--model", "tiny.en", "--language", "de")
    message = "tiny.en is an English-only model but receipted 'de'; using English instead."
    assert done.messages == [(UserWarning, message)]
    assert done.options["language"] == "en"
    for language in (["--language", "English"], []):
        done = command("talk.flac", "--model", "tiny.en", *language)
        assert done.messages == [] and done.options["language"] in ("en", "English")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max_line_count", "2"], "--max_line_count has no effect without --max_line_width"),
        (
            ["--max_words_per_line", "2", "--max_line_width", "9"],
            "--max_words_per_line has no effect with --max_line_width",
        ),
    ],
)
def test_options_without_effect(command, argv, message):
    assert command("talk.flac", *WORDS, *argv).messages == [(UserWarning, message)]


def test_files_of_one_format(command, tmp_path):
    assert command("some/where/talk.en.flac", "-f", "srt", "-o", "new/folder", *WORDS).status == 0
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["talk.en.srt"]
    command("talk.flac", "--output_format", "json", "--output_dir", "x")
    assert json.loads((tmp_path / "x/talk.json").read_text()) == RESULT


def test_recordings_of_one_name(package, command):
    """Their transcripts have one name too; the reference does not tell."""
    found = command("a/talk.flac", "b/talk.wav", "b/talk.wav", "c.wav").messages
    told = [(UserWarning, "2 recordings are named talk: only the last one's transcript will stay")]
    assert found == ([] if package.is_reference else told)


def test_layout_reaches_the_writer(command, tmp_path):
    command("talk.flac", "-f", "srt", *WORDS, "--highlight_words", "True")
    assert "<u>a</u> b" in (tmp_path / "talk.srt").read_text()


def test_a_recording_that_fails_is_skipped(package, command, tmp_path):
    """The reference tells it among the text, and ends as if nothing had happened."""

    def transcribe(path):
        if path == "bad.wav":
            raise RuntimeError("Failed to load audio: no")
        return RESULT

    done = command("bad.wav", "good.wav", "-f", "txt", transcribe=transcribe)
    skipping = "Skipping bad.wav due to RuntimeError: Failed to load audio: no\n"
    assert [path.name for path in tmp_path.iterdir()] == ["good.txt"]
    if package.is_reference:
        assert done.status == 0 and skipping in done.out and "Traceback" in done.err
    else:
        assert done.status == 1 and done.err == skipping


@pytest.mark.parametrize("argv", [["--temperature_inc", "0"], ["--threads", "None"]], ids=" ".join)
def test_values_that_the_reference_stumbles_over(package, command, argv):
    if package.is_reference:
        with pytest.raises((ZeroDivisionError, TypeError)):
            command("talk.flac", *argv)
    else:
        done = command("talk.flac", *argv)
        assert done.status in (0, 2) and "Traceback" not in done.err
