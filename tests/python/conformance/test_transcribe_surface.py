"""transcribe(): its options, warnings, output and traps; the loop runs on a scripted model."""

import contextlib
import inspect
import io
import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from scripted import PLAIN, TIMESTAMP, Answer, ScriptedModel, ScriptedWords, scripted_tqdm

JFK = str(ROOT / "examples" / "jfk.flac")
SPEECH = Answer([TIMESTAMP, 400, 401, TIMESTAMP + 1500])


class Run:
    """A transcription of `seconds` of sound by a scripted model, and what it did on the way."""

    def __init__(self, package, answers, seconds=30.0, words=None, multilingual=True, **options):
        self.model = ScriptedModel(answers, multilingual)
        self.words, self.progress = ScriptedWords(words or []), scripted_tqdm()
        mel = torch.ones(2, round(seconds * 100) + 3000)
        printed = io.StringIO()
        with (
            mock.patch.object(package.transcribe, "log_mel_spectrogram", self._spectrogram(mel)),
            mock.patch.object(package.transcribe, "add_word_timestamps", self.words),
            mock.patch.object(package.transcribe, "tqdm", self.progress),
            contextlib.redirect_stdout(printed),
            warnings.catch_warnings(record=True) as self.warned,
        ):
            warnings.simplefilter("always")
            # The reference leaves the file of its vocabulary open.
            warnings.filterwarnings("ignore", r"unclosed file .*/whisper/assets/", ResourceWarning)
            self.result = package.root.transcribe(self.model, np.zeros(1, np.float32), **options)
        self.printed = printed.getvalue()
        self.windows = [call[0] for call in self.model.calls if isinstance(call[1], dict)]
        self.options = [call[1] for call in self.model.calls if isinstance(call[1], dict)]

    def _spectrogram(self, mel):
        def log_mel_spectrogram(audio, n_mels, padding):
            assert (n_mels, padding) == (2, 480_000)
            return mel

        return log_mel_spectrogram

    @property
    def messages(self):
        return [str(w.message) for w in self.warned]

    @property
    def seeks(self):
        return [segment["seek"] for segment in self.result["segments"]]


@pytest.fixture
def run(package):
    def start(*answers, language="en", **options):
        if language is not None:
            options["language"] = language
        return Run(package, answers, **options)

    return start


def test_options(package):
    found = {
        name: p.default
        for name, p in inspect.signature(package.root.transcribe).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert found == {
        **{
            "verbose": None,
            "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            "compression_ratio_threshold": 2.4,
        },
        **{"logprob_threshold": -1.0, "no_speech_threshold": 0.6, "condition_on_previous_text": True},
        **{"initial_prompt": None, "carry_initial_prompt": False, "word_timestamps": False},
        **{"prepend_punctuations": "\"'“¿([{-", "append_punctuations": "\"'.。,，!！?？:：”)]}、"},  # noqa: RUF001
        **{"clip_timestamps": "0", "hallucination_silence_threshold": None},
        **({} if package.is_reference else {"batch_size": 4}),
    }


def test_a_transcript_of_speech(package, demo):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = package.root.transcribe(demo, JFK, word_timestamps=True)
    assert list(result) == ["text", "segments", "language"]
    keys = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob words"
    assert [list(segment) for segment in result["segments"]] == [keys.split()] * len(result["segments"])
    assert result["text"] == "".join(segment["text"] for segment in result["segments"])
    assert "ask what you can do for your country" in result["text"].lower()
    words = [word for segment in result["segments"] for word in segment["words"]]
    assert [list(word) for word in words] == [["word", "start", "end", "probability"]] * len(words)
    assert {type(word[key]) for word in words for key in ("start", "end", "probability")} <= {
        np.float64,
        float,
    }
    assert all(round(word["start"], 2) == word["start"] < word["end"] for word in words)


def test_segments_without_words(run):
    (segment,) = run(SPEECH).result["segments"]
    keys = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob"
    assert list(segment) == keys.split()
    assert (segment["id"], segment["seek"], segment["start"], segment["end"]) == (0, 0, 0.0, 30.0)
    assert segment["tokens"] == [TIMESTAMP, 400, 401, TIMESTAMP + 1500]


class TestWarnings:
    def test_half_precision_on_the_cpu(self, package, run):
        with mock.patch.object(torch.cuda, "is_available", lambda: True):
            found = run(SPEECH)
        assert found.messages == [
            "Performing inference on CPU when CUDA is available",
            "FP16 is not supported on CPU; using FP32 instead",
        ]
        assert {w.category for w in found.warned} == {UserWarning}
        assert {w.filename for w in found.warned} == {package.transcribe.__file__}
        assert found.windows[0][1] == torch.float32 and found.options[0]["fp16"] is False

    def test_none_on_devices_that_are_not_the_cpu(self, package):
        """Half precision stays, also where it is slow: the reference asks for the CPU only."""

        class Elsewhere(ScriptedModel):
            device = torch.device("meta")

            def decode(self, mel, options):
                self.calls.append((mel.device.type, mel.dtype, options.fp16))
                return SPEECH

        model = Elsewhere(())
        mel = torch.ones(2, 6000)
        with (
            mock.patch.object(package.transcribe, "log_mel_spectrogram", lambda *_, **__: mel),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error", UserWarning)
            package.root.transcribe(model, "", language="en")
        assert model.calls == [("meta", torch.float16, True)]

    def test_none_where_single_precision_was_asked_for(self, run):
        assert run(SPEECH, fp16=False).messages == []

    def test_words_of_a_translation(self, run):
        found = run(SPEECH, fp16=False, task="translate", word_timestamps=True)
        assert found.messages == ["Word-level timestamps on translations may not be reliable."]


class TestInput:
    samples = np.sin(np.arange(16000) / 20) * 0.4

    def transcribe(self, package, demo, audio):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return package.root.transcribe(demo, audio, language="en", temperature=0.0, sample_len=8)

    @pytest.mark.parametrize("kind", ["str", "array", "tensor"])
    def test_what_both_take(self, package, demo, kind):
        audio = {"str": JFK, "array": self.samples.astype(np.float32)}.get(kind)
        audio = torch.tensor(self.samples, dtype=torch.float32) if audio is None else audio
        assert self.transcribe(package, demo, audio)["segments"]

    @pytest.mark.parametrize("kind", ["float64", "int16", "int32", "path", "bytes", "file"])
    def test_what_the_reference_stumbles_over(self, package, demo, kind):
        samples = self.samples
        make = {
            "float64": lambda: samples,
            "int16": lambda: (samples * 2**15).astype(np.int16),
            "int32": lambda: (samples * 2**31).astype(np.int32),
            "path": lambda: ROOT / "examples" / "jfk.flac",
            "bytes": lambda: Path(JFK).read_bytes(),
            "file": lambda: io.BytesIO(Path(JFK).read_bytes()),
        }
        if package.is_reference:
            with pytest.raises((RuntimeError, TypeError)):
                self.transcribe(package, demo, make[kind]())
            return
        found = self.transcribe(package, demo, make[kind]())
        same = JFK if kind in ("path", "bytes", "file") else samples.astype(np.float32)
        assert found["text"] == self.transcribe(package, demo, same)["text"]

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool])
    def test_other_integers_are_refused(self, package, demo, dtype):
        with pytest.raises((RuntimeError, TypeError)):
            self.transcribe(package, demo, np.zeros(16000, dtype))

    def test_a_file_that_is_not_there(self, package, demo):
        with pytest.raises(RuntimeError, match="Failed to load audio: "):
            self.transcribe(package, demo, "no-such-file.wav")


class TestLanguage:
    def test_is_detected_in_the_first_30_seconds(self, run):
        found = run(SPEECH, language=None, seconds=40.0, clip_timestamps="35")
        assert found.result["language"] == "de"
        assert found.model.calls[0][0] == (2, 3000)  # detect_language comes first
        assert [options["language"] for options in found.options] == ["de"]

    def test_is_detected_with_silence_after_the_end(self, run):
        """Where the window that is decoded has zeros: the two differ in every short recording."""
        found = run(SPEECH, language=None, seconds=10.0)
        assert found.model.calls[0][2] == 2 * 3000
        assert found.windows[0][3] == 2 * 1000

    def test_is_told(self, run):
        ask = (
            "Detecting language using up to the first 30 seconds. Use `--language` to specify the language\n"
        )
        assert run(SPEECH, language=None, verbose=True).printed.startswith(
            f"{ask}Detected language: German\n"
        )
        assert run(SPEECH, language=None, verbose=False).printed == "Detected language: German\n"
        assert run(SPEECH, language=None).printed == ""

    def test_of_an_english_model_is_english(self, run):
        found = run(SPEECH, language=None, multilingual=False)
        assert found.result["language"] == "en"
        assert len(found.options) == len(found.model.calls)

    def test_comes_back_as_it_was_given(self, run):
        assert run(SPEECH, language="English").result["language"] == "English"


class TestClips:
    @pytest.mark.parametrize(
        ("clips", "seeks"),
        [
            ("0", [0, 3000]),
            ("", [0, 3000]),
            ([], [0, 3000]),
            ("10", [1000]),
            ([5.004, 10.006], [500]),
            ("30,40,0,10", [3000, 0]),
            ("10,5", []),
        ],
    )
    def test_are_seconds(self, run, clips, seeks):
        assert run(*[Answer([400])] * 9, seconds=40.0, clip_timestamps=clips).seeks == seeks

    def test_past_the_end(self, package, run):
        """The reference asks for windows of no length for ever."""

        class EndlessError(Exception):
            pass

        def answers():
            for _ in range(20):
                yield Answer([400])
            raise EndlessError

        def transcribe():
            model = ScriptedModel(())
            model.answers = answers()
            mel = torch.ones(2, 3500)
            with mock.patch.object(package.transcribe, "log_mel_spectrogram", lambda *_, **__: mel):
                return package.root.transcribe(model, "", language="en", fp16=False, clip_timestamps="0,60")

        if package.is_reference:
            with pytest.raises((EndlessError, RuntimeError)):
                transcribe()
        else:
            assert [segment["seek"] for segment in transcribe()["segments"]] == [0]


class TestWindows:
    def test_are_padded_with_zeros_in_log_mel(self, run):
        """Not with silence: the spectrogram is 1 all over, also where the recording has ended."""
        found = run(SPEECH, seconds=10.0)
        shape, _, _, total = found.windows[0]
        assert shape == (2, 3000) and total == 2 * 1000

    def test_go_on_from_the_last_timestamp(self, run):
        cut = Answer([TIMESTAMP, 400, TIMESTAMP + 500, TIMESTAMP + 500, 401])
        found = run(cut, Answer([402]), seconds=40.0)
        assert found.seeks == [0, 1000]
        assert [s["tokens"] for s in found.result["segments"]] == [[TIMESTAMP, 400, TIMESTAMP + 500], [402]]

    def test_end_with_a_single_timestamp(self, run):
        ended = Answer([TIMESTAMP, 400, TIMESTAMP + 500, TIMESTAMP + 500, 401, TIMESTAMP + 900])
        found = run(ended, Answer([402]), seconds=40.0)
        assert found.seeks == [0, 0, 3000]
        assert [s["end"] for s in found.result["segments"]] == [10.0, 18.0, 40.0]

    def test_without_pairs_last_to_the_last_timestamp(self, run):
        found = run(Answer([TIMESTAMP, 400, TIMESTAMP + 700]), Answer([402]), seconds=40.0)
        assert [(s["start"], s["end"], s["seek"]) for s in found.result["segments"]] == [
            (0.0, 14.0, 0),
            (30.0, 40.0, 3000),
        ]

    def test_of_silence_are_passed_over(self, run):
        silent = Answer([400], no_speech_prob=0.9, avg_logprob=-1.5)
        convincing = Answer([401], no_speech_prob=0.9, avg_logprob=-0.5)
        found = run(silent, convincing, seconds=60.0)
        assert found.seeks == [3000]

    def test_of_silence_keep_the_prompt_and_are_no_progress(self, run):
        silent = Answer([400], no_speech_prob=0.9, avg_logprob=-1.5, temperature=1.0)
        found = run(Answer([401]), silent, Answer([402]), seconds=90.0, temperature=0.0, verbose=False)
        assert [options["prompt"] for options in found.options] == [[], [401], [401]]
        assert found.progress.log[1:] == [3000, 3000, "closed"]


class TestFallback:
    bad = Answer([400], avg_logprob=-2.0)

    def test_uses_the_last_result_if_all_fail(self, run):
        found = run(*[self.bad] * 6)
        assert [options["temperature"] for options in found.options] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        assert found.result["segments"][0]["temperature"] == 1.0

    def test_for_repetitions(self, run):
        assert len(run(Answer([400], compression_ratio=2.41), SPEECH).options) == 2
        assert len(run(Answer([400], compression_ratio=2.4), SPEECH).options) == 1
        assert len(run(Answer([400], compression_ratio=9.0), compression_ratio_threshold=None).options) == 1

    def test_not_for_silence(self, run):
        assert len(run(Answer([400], avg_logprob=-2.0, no_speech_prob=0.7)).options) == 1
        assert (
            len(
                run(
                    Answer([400], avg_logprob=-2.0, no_speech_prob=0.7), SPEECH, no_speech_threshold=None
                ).options
            )
            == 2
        )

    def test_beams_are_for_temperature_0_and_samples_for_others(self, run):
        found = run(self.bad, SPEECH, beam_size=5, patience=2.0, best_of=3)
        given = [(o["temperature"], o["beam_size"], o["patience"], o["best_of"]) for o in found.options]
        assert given == [(0.0, 5, 2.0, None), (0.2, None, None, 3)]

    @pytest.mark.parametrize("temperature", [0.3, 0, [0.3], (0.0, 0.5), np.array([0.0, 0.5])])
    def test_temperatures(self, run, temperature):
        assert run(SPEECH, temperature=temperature).options[0]["temperature"] == np.ravel(temperature)[0]

    def test_a_temperature_of_numpys(self, package, run):
        if package.is_reference:
            with pytest.raises(TypeError):
                run(SPEECH, temperature=np.float32(0.5))
        else:
            assert run(SPEECH, temperature=np.float32(0.5)).options[0]["temperature"] == 0.5


class TestPrompt:
    answers = (Answer([401]), Answer([402]), Answer([403]))

    def prompts(self, run, *answers, **options):
        return [o["prompt"] for o in run(*(answers or self.answers), seconds=90.0, **options).options]

    def test_is_the_text_so_far(self, run):
        assert self.prompts(run) == [[], [401], [401, 402]]

    def test_contains_timestamps(self, run):
        assert self.prompts(run, SPEECH, *self.answers)[1] == SPEECH.tokens

    def test_starts_with_the_initial_one(self, run):
        assert self.prompts(run, initial_prompt=" Ada ") == [[32276], [32276, 401], [32276, 401, 402]]

    def test_is_empty_where_the_text_does_not_count(self, run):
        found = self.prompts(run, initial_prompt="Ada", condition_on_previous_text=False)
        assert found == [[32276], [], []]

    def test_is_empty_after_a_high_temperature(self, run):
        found = self.prompts(run, initial_prompt="Ada", temperature=0.6)
        assert found == [[32276], [], []]
        assert self.prompts(run, temperature=0.5) == [[], [401], [401, 402]]

    def test_carries_the_initial_one(self, run):
        found = self.prompts(
            run, initial_prompt="Ada", carry_initial_prompt=True, condition_on_previous_text=False
        )
        assert found == [[32276], [32276], [32276]]

    def test_a_long_initial_one_leaves_no_room(self, package, run):
        """Then [-0:] keeps the whole history: the reference's own, kept since tokens depend on it."""
        long = " Ada" * 223
        found = self.prompts(run, initial_prompt=long, carry_initial_prompt=True)
        assert [len(prompt) for prompt in found] == [223, 224, 225]

    def test_a_longer_initial_one_cuts_the_history_at_its_start(self, run):
        """A count of -2 is one from the front. The task then keeps the last 223 of all."""
        found = self.prompts(
            run, Answer([401, 402, 403]), initial_prompt=" Ada" * 225, carry_initial_prompt=True
        )
        assert [prompt[225:] for prompt in found] == [[], [403], [403, *PLAIN.tokens]]

    def test_of_the_caller_is_overwritten(self, run):
        assert self.prompts(run, prompt="Bob")[0] == []

    def test_is_not_part_of_the_text(self, run):
        assert "Ada" not in run(SPEECH, initial_prompt="Ada").result["text"]


def test_an_unknown_option_is_a_type_error_at_the_first_window(package):
    model = ScriptedModel(())
    mel = torch.ones(2, 6000)
    with mock.patch.object(package.transcribe, "log_mel_spectrogram", lambda *_, **__: mel):
        with pytest.raises(TypeError, match="unexpected keyword argument 'beams'"):
            package.root.transcribe(model, "", language="en", fp16=False, beams=3)
        assert model.calls == []


class TestEmptySegments:
    blank = Answer([TIMESTAMP, 220, TIMESTAMP + 50, TIMESTAMP + 50, 400, TIMESTAMP + 90])

    def test_stay_without_text(self, run):
        first, second = run(self.blank).result["segments"]
        assert (first["text"], first["tokens"], first["words"]) == ("", [], [])
        assert second["text"] and "words" not in second

    def test_come_first_in_subtitles(self, package, run, tmp_path):
        """The reference's writers take the words of the others for granted: KeyError 'words'."""
        result = run(self.blank).result
        write = package.utils.get_writer("srt", str(tmp_path))
        if package.is_reference:
            with pytest.raises(KeyError, match="words"):
                write(result, "a.wav")
        else:
            write(result, "a.wav")
            assert "00:00:01,000 --> 00:00:01,800" in (tmp_path / "a.srt").read_text()


class TestProgress:
    def test_is_told_to_the_module_s_tqdm(self, run):
        """Front ends replace `whisper.transcribe.tqdm` to show it themselves."""
        found = run(*[Answer([400])] * 3, seconds=70.0, verbose=False)
        assert found.progress.log == [
            {"total": 7000, "unit": "frames", "disable": False},
            *(3000, 3000, 1000),
            "closed",
        ]

    @pytest.mark.parametrize("verbose", [None, True])
    def test_is_hidden(self, run, verbose):
        assert run(SPEECH, verbose=verbose).progress.log[0]["disable"] is True

    def test_an_exception_in_it_stops(self, package):
        class Stop(Exception):
            pass

        def update(frames):
            raise Stop

        bar = contextlib.nullcontext(SimpleNamespace(update=update))
        tqdm = SimpleNamespace(tqdm=lambda **_: bar)
        mel = torch.ones(2, 9000)
        model = ScriptedModel([SPEECH] * 3)
        with (
            mock.patch.object(package.transcribe, "log_mel_spectrogram", lambda *_, **__: mel),
            mock.patch.object(package.transcribe, "tqdm", tqdm),
            pytest.raises(Stop),
        ):
            package.root.transcribe(model, "", language="en", fp16=False)
        assert len(model.calls) == 1


class TestWords:
    def test_set_where_to_go_on(self, run):
        open_end = Answer([TIMESTAMP, 400, TIMESTAMP + 900, TIMESTAMP + 900, 401])
        found = run(
            open_end, Answer([402]), seconds=40.0, word_timestamps=True, words=[[(0, 512, 0.9, " a")]]
        )
        assert found.seeks == [0, 512, 3512]
        assert found.words.calls[0][2:4] == (3000, 0.0)  # frames, and where speech has ended

    def test_come_with_the_callers_punctuation(self, run):
        found = run(SPEECH, word_timestamps=True, prepend_punctuations="(", append_punctuations=")")
        assert found.words.calls[0][4] == {"prepend_punctuations": "(", "append_punctuations": ")"}

    def test_a_silence_threshold_means_nothing_without_them(self, run):
        found = run(SPEECH, hallucination_silence_threshold=0.1)
        assert found.words.calls == [] and len(found.result["segments"]) == 1

    def test_improbable_ones_after_silence_are_skipped(self, run):
        words = [[(500, 10, 0.01, " a")], [(0, 100, 0.9, " b")]]
        found = run(SPEECH, SPEECH, word_timestamps=True, hallucination_silence_threshold=2.0, words=words)
        assert found.seeks == [500]  # the first window gave nothing, the second starts at its word

    @pytest.mark.parametrize(("seconds", "seeks"), [(29.0, [0]), (40.0, [0, 2820])])
    def test_improbable_ones_before_silence_are_taken_back(self, run, seconds, seeks):
        """And heard again from their beginning, unless the recording ends with them."""
        two = Answer([TIMESTAMP, 400, TIMESTAMP + 500, TIMESTAMP + 500, 401, TIMESTAMP + 1490])
        words = [[(450, 50, 0.9, " good")], [(2320, 10, 0.01, " bad")], [(0, 100, 0.9, " end")]]
        found = run(
            *(two, SPEECH),
            seconds=seconds,
            word_timestamps=True,
            hallucination_silence_threshold=2.0,
            words=words,
        )
        assert found.seeks == seeks


def test_printed_segments(run):
    printed = run(Answer([TIMESTAMP, 2425, TIMESTAMP + 150]), verbose=True).printed
    assert printed == "[00:00.000 --> 00:03.000]  able\n" or printed.startswith("[00:00.000 --> 00:03.000] ")


@pytest.mark.parametrize("given", [{"temperature": ()}, {"audio": np.zeros((2, 16000), np.float32)}])
def test_input_that_makes_no_sense(package, demo, given):
    audio = given.get("audio", np.zeros(16000, np.float32))
    options = {"temperature": 0.0, **given}
    options.pop("audio", None)
    with pytest.raises(AttributeError if package.is_reference else ValueError):
        package.root.transcribe(demo, audio, language="en", fp16=False, **options)


def test_a_hook_is_gone_after_an_interrupt(package, demo):
    def interrupt(*_):
        raise KeyboardInterrupt

    handle = demo.decoder.ln.register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            package.root.transcribe(demo, np.zeros(16000, np.float32), language="en", fp16=False)
    finally:
        handle.remove()
    assert not any(m._forward_hooks for m in demo.modules())


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf])
def test_temperatures_that_are_none_matter_to_samples_only(package, demo, temperature):
    def transcribe(**options):
        return package.root.transcribe(
            demo, JFK, fp16=False, language="en", temperature=temperature, sample_len=5, **options
        )

    with pytest.raises(ValueError, match=r"Expected parameter logits|temperature is .*, expected 0"):
        transcribe()
    if temperature < 0:
        assert transcribe(beam_size=2)["text"]


def test_what_prints_segments_can_be_replaced(package, run, monkeypatch):
    monkeypatch.setattr(package.transcribe, "format_timestamp", lambda seconds: f"{seconds:.0f} s")
    monkeypatch.setattr(package.transcribe, "make_safe", str.upper)
    printed = run(Answer([TIMESTAMP, 2425, TIMESTAMP + 150]), verbose=True).printed
    assert printed.startswith("[0 S --> 3 S]  ") and printed.isupper()


def test_pad_or_trim_can_be_replaced(package, demo, monkeypatch):
    lengths, pad_or_trim = [], package.transcribe.pad_or_trim

    def replaced(array, length):
        lengths.append(length)
        return pad_or_trim(array, length)

    monkeypatch.setattr(package.transcribe, "pad_or_trim", replaced)
    package.root.transcribe(demo, JFK, fp16=False, language="en", temperature=0.0)
    assert lengths == [3000]
