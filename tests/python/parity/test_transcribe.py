"""transcribe() of real recordings with trained models, against the reference."""

import copy
import functools
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import whisper
from conftest import SHARED

import torchwhisper
from torchwhisper import _engine

ROOT = Path(__file__).resolve().parents[3]
BUNDLED_AUDIO = ROOT / "examples" / "jfk.flac"

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "beam": {"beam_size": 5},
    "words": {"word_timestamps": True},
    "unconditioned": {"condition_on_previous_text": False},
    "prompt": {"initial_prompt": "Mr. Speaker, my fellow Americans, liebe Freunde."},
    "sampling": {"temperature": 0.4},
}
MODELS = ["tiny.pt", "demo.pt"]
RECORDINGS = [
    *(
        "jfk.flac",
        "short_en_12s.flac",
        "digits_human_en.flac",
        "talk_en_3min.flac",
        "sparse_en_noise_2min.flac",
    ),
    *("talk_de_1min.flac", "talk_es_1min.flac", "talk_it_1min.flac"),
]
# With these every option set runs in the short matrix too.
SHORT = RECORDINGS[:2]
RESAMPLED = {"jfk.flac"}


def cases(full: bool) -> list[Any]:
    if not (SHARED / "models").exists():
        return [pytest.param("bundled", "jfk.flac", options, id=f"bundled-{options}") for options in OPTIONS]
    return [
        pytest.param(model, recording, options, id=f"{model}-{recording}-{options}")
        for model in MODELS
        for recording in RECORDINGS
        for options in OPTIONS
        if full or recording in SHORT or options == "defaults"
    ]


def python_path_cases(full: bool) -> list[Any]:
    """The Python path takes the reference's time: one option set for each recording."""
    if not (SHARED / "models").exists():
        return cases(full)[:3]
    every = [("tiny.pt", "jfk.flac", options) for options in ("defaults", "words", "beam")]
    if full:
        options = ["words", *OPTIONS]
        every += [("demo.pt", name, options[i % len(options)]) for i, name in enumerate(RECORDINGS[1:])]
    return [pytest.param(*case, id="-".join(case)) for case in every]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recording" in metafunc.fixturenames:
        full = metafunc.config.getoption("--parity-full")
        made = python_path_cases if metafunc.function is test_python_path else cases
        metafunc.parametrize(("model", "recording", "options"), made(full))


@functools.lru_cache(maxsize=1)
def models(name: str) -> tuple[Any, Any]:
    """The reference's model and ours."""
    if name != "bundled":
        path = str(SHARED / "models" / name)
        return whisper.load_model(path, device="cpu"), torchwhisper.load_model(path, device="cpu")
    ours = torchwhisper.load_model("demo", device="cpu")
    reference = whisper.model.Whisper(whisper.ModelDimensions(**vars(ours.dims)))
    reference.load_state_dict(copy.deepcopy(ours.state_dict()))
    return reference, ours


def run(transcribe: Any, model: Any, recording: str, options: str) -> dict[str, Any]:
    path = BUNDLED_AUDIO if recording == "jfk.flac" else SHARED / "audio" / recording
    torch.manual_seed(1234)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FP16 is not supported on CPU")
        warnings.filterwarnings("ignore", message="Performing inference on CPU")
        found: dict[str, Any] = transcribe(model, os.fspath(path), **OPTIONS[options])
    return found


def assert_same(got: dict[str, Any], wanted: dict[str, Any], tolerance: float) -> None:
    assert list(got) == list(wanted)
    assert got["language"] == wanted["language"]
    assert got["text"] == wanted["text"]
    assert [s["tokens"] for s in got["segments"]] == [s["tokens"] for s in wanted["segments"]]
    for ours, theirs in zip(got["segments"], wanted["segments"], strict=True):
        assert list(ours) == list(theirs)
        for key in ("id", "seek", "start", "end", "text", "temperature"):
            assert ours[key] == theirs[key], key
        for key in ("avg_logprob", "compression_ratio", "no_speech_prob"):
            assert ours[key] == pytest.approx(theirs[key], abs=tolerance), key
        for word, their_word in zip(ours.get("words", []), theirs.get("words", []), strict=True):
            assert list(word) == list(their_word)
            assert word["probability"] == pytest.approx(their_word["probability"], abs=tolerance)
            assert {**word, "probability": 0} == {**their_word, "probability": 0}


def compare(model: str, recording: str, options: str) -> None:
    reference, ours = models(model)
    got = run(torchwhisper.transcribe, ours, recording, options)
    wanted = run(whisper.transcribe, reference, recording, options)
    assert_same(got, wanted, 1e-2 if recording in RESAMPLED else 1e-4)


def test_engine(model, recording, options):
    with _engine.require():
        compare(model, recording, options)


def test_python_path(model, recording, options):
    with _engine.disable():
        compare(model, recording, options)


def test_what_is_skipped_without_the_shared_folder():
    if not (SHARED / "models").exists():
        pytest.skip(f"{SHARED} is absent: tiny.pt, demo.pt and {', '.join(RECORDINGS[1:])} are not compared")
