"""Several recordings at once: the tokens, texts and times that each has alone, in fewer decodes."""

import importlib
import io
import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from scripted import PLAIN, TIMESTAMP, Answer, ScriptedModel, scripted_tqdm

import torchwhisper
from torchwhisper import _C, _batch, _engine
from torchwhisper._lock_step import Attempt
from torchwhisper.decoding import DecodingOptions

OURS = importlib.import_module("torchwhisper.transcribe")
JFK = ROOT / "examples" / "jfk.flac"


@pytest.fixture(scope="module")
def demo():
    return torchwhisper.load_model("demo", device="cpu")


@pytest.fixture(scope="module")
def recordings():
    """Different beginnings, lengths and numbers of windows."""
    speech = torchwhisper.load_audio(str(JFK))
    silence = np.zeros(16000 * 3, np.float32)
    long = np.concatenate([speech, silence, speech, speech[:64000]])
    return [speech, long, np.concatenate([silence, speech[:90000]]), long[64000:] / 2]


def transcribe(model, audio, **options):
    with warnings.catch_warnings(), _engine.require():
        warnings.simplefilter("ignore")
        return torchwhisper.transcribe(model, audio, **{"temperature": 0.0, **options})


def assert_same(got, wanted):
    for one, alone in zip(got, wanted, strict=True):
        assert (one["text"], one["language"]) == (alone["text"], alone["language"])
        for segment, expected in zip(one["segments"], alone["segments"], strict=True):
            assert list(segment) == list(expected)
            for key in ("id", "seek", "start", "end", "text", "tokens", "temperature"):
                assert segment[key] == expected[key], key
            assert segment["avg_logprob"] == pytest.approx(expected["avg_logprob"], abs=1e-5)
            assert segment["no_speech_prob"] == pytest.approx(expected["no_speech_prob"], abs=1e-5)
            times = [[word[key] for key in ("word", "start", "end")] for word in segment.get("words", [])]
            assert times == [
                [word[key] for key in ("word", "start", "end")] for word in expected.get("words", [])
            ]


@pytest.fixture
def batches(monkeypatch):
    """How many windows each decode of the engine had."""
    sizes, decode = [], _C.decode

    def counted(engine, memory, initial_tokens, *rest):
        sizes.append(len(initial_tokens))
        return decode(engine, memory, initial_tokens, *rest)

    monkeypatch.setattr(_C, "decode", counted)
    return sizes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beam_size": 3, "word_timestamps": True},
        {"beam_size": 4, "patience": 0.5, "without_timestamps": True, "sample_len": 12},
        {"condition_on_previous_text": False, "language": "en"},
        {"initial_prompt": "My fellow Americans.", "carry_initial_prompt": True},
    ],
    ids=str,
)
def test_several_recordings_have_what_each_has_alone(demo, recordings, options):
    together = transcribe(demo, recordings, **options)
    assert_same(together, [transcribe(demo, audio, **options) for audio in recordings])


def test_windows_of_several_recordings_are_one_batch(demo, recordings, batches):
    options = {"condition_on_previous_text": False, "language": "en"}
    for audio in recordings:
        transcribe(demo, audio, **options)
    windows = batches.copy()
    assert set(windows) == {1}
    batches.clear()
    transcribe(demo, recordings, **options)
    assert sum(batches) == len(windows) and batches[0] == 4 and len(batches) < len(windows)
    batches.clear()
    transcribe(demo, recordings, batch_size=2, **options)
    assert sum(batches) == len(windows) and max(batches) == 2


def test_prompts_of_different_lengths_are_decoded_apart(demo, batches):
    features = demo.embed_audio(torch.zeros(1, 80, 3000))[0]
    prompts = [[400], [401, 402], [403], []]
    attempts = [Attempt(features, DecodingOptions(language="en", fp16=False, prompt=p)) for p in prompts]
    with torch.no_grad():
        answers = _batch.decode_attempts(demo, 4, attempts)
        alone = [demo.decode(features, attempt.options) for attempt in attempts]
    assert sorted(batches[:3]) == [1, 1, 2]
    assert [answer.tokens for answer in answers] == [result.tokens for result in alone]


def test_languages_are_each_recording_s_own(demo, recordings, monkeypatch):
    codes = iter(["de", "en", "fr"])

    def detect(recording, verbose, say):
        return next(codes)

    monkeypatch.setattr(OURS, "_language", detect)
    together = transcribe(demo, recordings[:3])
    assert [result["language"] for result in together] == ["de", "en", "fr"]
    alone = [transcribe(demo, a, language=c) for a, c in zip(recordings, ("de", "en", "fr"), strict=False)]
    assert_same(together, alone)


def test_clips_without_previous_text_are_one_batch(demo, recordings, batches):
    options = {"clip_timestamps": "0,6,11,18,20,29,2,5", "language": "en"}
    apart = [
        transcribe(demo, recordings[1], **options, condition_on_previous_text=False, batch_size=1),
        transcribe(demo, recordings[1], **options, condition_on_previous_text=False),
    ]
    assert 4 in batches
    assert_same(apart[1:], apart[:1])
    batches.clear()
    transcribe(demo, recordings[1], **options)
    transcribe(demo, recordings[1], **options, condition_on_previous_text=False, initial_prompt="My fellow")
    assert set(batches) == {1}


@pytest.mark.parametrize("temperature", [0.5, (0.0, 0.4, 0.9)])
def test_clips_draw_random_numbers_in_their_order(demo, recordings, batches, temperature):
    """So that a seed gives what the reference gives, which takes them one by one."""
    options = {
        "clip_timestamps": "0,6,11,18,20,29,2,5",
        "language": "en",
        "condition_on_previous_text": False,
    }
    options |= {"temperature": temperature, "logprob_threshold": -0.2, "no_speech_threshold": None}
    found = []
    for batch_size in (1, 4):
        torch.manual_seed(3)
        found.append(transcribe(demo, recordings[1], **options, batch_size=batch_size))
    assert {segment["temperature"] for segment in found[0]["segments"]} & {0.4, 0.5, 0.9}
    assert_same(found[1:], found[:1])
    assert (4 in batches) == (temperature != 0.5)


def test_clips_of_a_model_from_elsewhere_come_in_their_order():
    answers = [Answer([TIMESTAMP, 400 + i, TIMESTAMP + 1500]) for i in range(4)]
    options = {"clip_timestamps": "0,50,10,60", "condition_on_previous_text": False}
    (result,), _, _ = scripted(answers, 1, **options)
    assert [(s["seek"], s["tokens"][1]) for s in result["segments"]] == [
        *((0, 400), (3000, 401), (1000, 402), (4000, 403))
    ]


def test_an_empty_list_and_a_tuple(demo, recordings):
    assert torchwhisper.transcribe(demo, []) == []
    assert_same(transcribe(demo, (recordings[0],)), [transcribe(demo, recordings[0])])


@pytest.mark.parametrize("size", [0, -1])
def test_batch_sizes_that_make_no_sense(demo, size):
    with pytest.raises(ValueError, match=f"batch_size is {size}"):
        torchwhisper.transcribe(demo, [str(JFK)], batch_size=size)


def test_the_first_error_is_raised(demo):
    with pytest.raises(RuntimeError, match=r"no-such\.wav"):
        transcribe(demo, [str(JFK), "no-such.wav"])


def test_a_window_that_fails_is_tried_again_alone(demo, recordings, batches):
    torch.manual_seed(0)
    failing = {"temperature": (0.0, 0.5), "logprob_threshold": 0.0, "no_speech_threshold": None}
    together = transcribe(demo, recordings[:2], **failing, language="en", sample_len=5)
    assert {segment["temperature"] for result in together for segment in result["segments"]} == {0.5}
    assert batches[0] == 2 and batches[1:3] == [1, 1]


def test_a_window_that_cannot_be_decoded_fails_alone(demo):
    features = demo.embed_audio(torch.zeros(1, 80, 3000))[0]
    broken = torch.full_like(features, torch.nan)
    options = DecodingOptions(language="en", fp16=False)
    with torch.no_grad():
        found = _batch.decode_attempts(demo, 4, [Attempt(f, options) for f in (features, broken, features)])
        alone = demo.decode(features, options)
    assert isinstance(found[1], ValueError)
    assert found[0].tokens == found[2].tokens == alone.tokens


def test_on_the_python_path(demo, recordings):
    alone = [transcribe(demo, audio, language="en", sample_len=8) for audio in recordings[:2]]
    hook = demo.decoder.blocks[0].register_forward_hook(lambda *_: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            together = torchwhisper.transcribe(
                demo, recordings[:2], temperature=0.0, language="en", sample_len=8
            )
    finally:
        hook.remove()
    assert_same(together, alone)


def scripted(answers, count, **options):
    """`count` recordings of a model from elsewhere, whose windows are asked one by one."""
    progress, printed = scripted_tqdm(), io.StringIO()
    model = ScriptedModel(answers)
    with (
        mock.patch.object(OURS, "log_mel_spectrogram", lambda *_, **__: torch.ones(2, 9000)),
        mock.patch.object(OURS, "tqdm", progress),
        redirect_stdout(printed),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        results = OURS.transcribe(model, [np.zeros(1, np.float32)] * count, language="en", **options)
    return results, progress.log, printed.getvalue()


def test_a_model_from_elsewhere_is_asked_window_by_window():
    answers = [Answer([TIMESTAMP, 400 + i, TIMESTAMP + 1500]) for i in range(4)]
    results, _, _ = scripted(answers, 2)
    assert [[s["tokens"][1] for s in result["segments"]] for result in results] == [[400, 402], [401, 403]]


def test_what_is_printed_keeps_the_order_of_the_recordings():
    answers = [Answer([TIMESTAMP, 400 + i, TIMESTAMP + 1500]) for i in range(4)]
    results, _, printed = scripted(answers, 2, verbose=True)
    texts = [segment["text"] for result in results for segment in result["segments"]]
    assert [line.split("] ")[1] for line in printed.splitlines()] == texts


def test_each_recording_has_a_bar():
    _, log, _ = scripted([PLAIN] * 4, 2, verbose=False)
    bar = {"total": 6000, "unit": "frames", "disable": False}
    assert log == [bar, bar, 3000, 3000, 3000, "closed", 3000, "closed"]


def cli(*argv):
    with (
        mock.patch("sys.argv", ["torchwhisper", *map(str, argv), "--device", "cpu", "--model", "demo"]),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            OURS.cli()
        except SystemExit as leaving:
            return leaving.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_the_command_with_several_files(tmp_path, batches):
    scipy_io = pytest.importorskip("scipy.io.wavfile")
    speech = (torchwhisper.load_audio(str(JFK)) * 32767).astype(np.int16)
    for name, samples in (("one.wav", speech), ("two.wav", speech[40000:])):
        scipy_io.write(tmp_path / name, 16000, samples)
    files = [tmp_path / "one.wav", tmp_path / "no-such.wav", tmp_path / "two.wav"]
    status, out, err = cli(*files, "-o", tmp_path / "together", "--language", "en")
    assert status == 1 and max(batches) == 2
    assert len(err.splitlines()) == 1 and err.startswith(f"Skipping {files[1]} due to RuntimeError: ")
    status, _, _ = cli(*files, "-o", tmp_path / "apart", "--language", "en", "--batch_size", "1")
    lines = []
    for name in ("one", "two"):
        for extension in ("txt", "srt", "vtt", "tsv"):
            written = (tmp_path / "together" / f"{name}.{extension}").read_text()
            assert written == (tmp_path / "apart" / f"{name}.{extension}").read_text()
        segments = json.loads((tmp_path / "together" / f"{name}.json").read_text())["segments"]
        lines += [segment["text"] for segment in segments]
    assert [line.split("]", 1)[1] for line in out.splitlines()] == [f" {text}" for text in lines]
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == sorted(
        f"{name}.{extension}" for name in ("one", "two") for extension in ("txt", "srt", "vtt", "tsv", "json")
    )
