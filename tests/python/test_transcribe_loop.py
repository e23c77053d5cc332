"""The loop over the windows: both packages transcribe the same scripted model and must do the same.

The script says what each call of `model.decode` answers and where words lie; when it is used up, every window
answers with plain text, so that the reference always comes to an end.
"""

import contextlib
import importlib
import inspect
import io
import itertools
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import TIMESTAMP, Answer, ScriptedModel, ScriptedWords, scripted_tqdm

from torchwhisper import _recording
from torchwhisper.model import AudioEncoder, ModelDimensions, Whisper
from torchwhisper.tokenizer import get_tokenizer

# However busy the machine is.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The packages' attributes of this name are the functions.
OURS = importlib.import_module("torchwhisper.transcribe")
REFERENCE = importlib.import_module("whisper.transcribe")


def observe(module, script, content_frames, options, audio=None):
    """Everything that can be seen of a transcription."""
    mel = torch.arange(content_frames + 3000, dtype=torch.float32).repeat(2, 1) / 1000
    model = ScriptedModel(script["answers"], script["multilingual"])
    words, progress, printed = ScriptedWords(script["words"]), scripted_tqdm(), io.StringIO()
    with (
        mock.patch.object(module, "log_mel_spectrogram", lambda *args, **kwargs: mel.clone()),
        mock.patch.object(module, "add_word_timestamps", words),
        mock.patch.object(module, "tqdm", progress),
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        result = module.transcribe(model, np.zeros(1, np.float32) if audio is None else audio, **options)
    return {
        "result": result,
        "keys": [list(segment) for segment in result["segments"]],
        "decode": model.calls,
        "words": words.calls,
        "progress": progress.log,
        "printed": printed.getvalue(),
        "warnings": [str(w.message) for w in warned if w.category is UserWarning],
    }


def assert_equal(script, content_frames, options):
    ours = observe(OURS, script, content_frames, options)
    reference = observe(REFERENCE, script, content_frames, options)
    for seen in reference:
        assert ours[seen] == reference[seen], seen
    return ours


def advances(tokens):
    """Whether a window with this answer moves on; the model's own filters see to it."""
    pairs = [a for a, b in itertools.pairwise(tokens) if a >= TIMESTAMP and b >= TIMESTAMP]
    return not pairs or pairs[-1] > TIMESTAMP


text_token = st.one_of(st.integers(0, 50256), st.sampled_from([220, 13, 1029]))
timestamp = st.one_of(st.integers(TIMESTAMP, TIMESTAMP + 1500), st.integers(TIMESTAMP, TIMESTAMP + 5))
texts = st.lists(text_token, max_size=4)
any_tokens = st.lists(st.one_of(text_token, timestamp), max_size=12)


@st.composite
def spoken_tokens(draw):
    """Segments as the models write them: text between timestamps that rise, the last one maybe unfinished."""
    times = sorted(draw(st.lists(st.integers(0, 1500), min_size=2, max_size=8)))
    tokens = []
    for start, end in itertools.pairwise(times):
        tokens += [TIMESTAMP + start, *draw(texts), TIMESTAMP + end]
    return tokens[: len(tokens) - draw(st.integers(0, 2))]


answers = st.builds(
    Answer,
    tokens=st.one_of(spoken_tokens(), any_tokens).filter(advances),
    avg_logprob=st.one_of(st.floats(-2, 0), st.just(float("nan"))),
    no_speech_prob=st.floats(0, 1),
    compression_ratio=st.floats(0, 4),
)
word = st.tuples(
    st.one_of(st.integers(0, 30), st.integers(0, 800), st.integers(2600, 2900)),
    st.one_of(st.sampled_from([0, 5, 11, 13, 14, 20]), st.integers(0, 400)),
    st.one_of(st.floats(0, 1), st.floats(0.1, 0.2)),
    st.sampled_from([" a", " word", ",", ".", "", "-"]),
)
swift_word = st.tuples(
    st.sampled_from([0, 50, 100, 150, 250]),
    st.integers(8, 14),
    st.floats(0.1, 1),
    st.sampled_from([" a", ","]),
)
words = st.one_of(st.lists(word, max_size=5), st.lists(swift_word, max_size=12))
scripts = st.fixed_dictionaries(
    {
        "answers": st.lists(answers, max_size=12),
        "words": st.lists(words, max_size=30),
        "multilingual": st.booleans(),
    }
)
threshold = st.one_of(st.none(), st.floats(-2, 3))
seconds = st.one_of(st.integers(0, 100), st.floats(0, 100))
options = st.fixed_dictionaries(
    {},
    optional={
        "verbose": st.sampled_from([None, False]),
        "temperature": st.one_of(
            st.floats(0, 1), st.just(0), st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple)
        ),
        "compression_ratio_threshold": threshold,
        "logprob_threshold": threshold,
        "no_speech_threshold": threshold,
        "condition_on_previous_text": st.booleans(),
        "initial_prompt": st.sampled_from(
            ["", "  Names: Ada, Bo ", "long " * 222, "long " * 223, "long " * 300]
        ),
        "carry_initial_prompt": st.booleans(),
        "word_timestamps": st.booleans(),
        "prepend_punctuations": st.just("¿"),
        "append_punctuations": st.just("."),
        "clip_timestamps": st.one_of(
            st.lists(seconds, max_size=5),
            st.lists(seconds, max_size=5).map(lambda clips: ",".join(map(str, clips))),
        ),
        "hallucination_silence_threshold": st.one_of(st.none(), st.floats(0.05, 3)),
        "language": st.sampled_from([None, "en", "German"]),
        "task": st.sampled_from(["transcribe", "translate"]),
        "fp16": st.booleans(),
        "beam_size": st.sampled_from([None, 5]),
        "best_of": st.just(3),
        "patience": st.just(2.0),
        "prefix": st.just("so"),
        "prompt": st.just("is overwritten"),
        "without_timestamps": st.booleans(),
    },
)


def within(options, content_frames):
    """Ends of clips beyond the recording are where the reference does not come to an end."""
    clips = options.get("clip_timestamps")
    if clips is None or clips == "":
        return options
    as_text = isinstance(clips, str)
    points = [float(x) for x in clips.split(",")] if as_text else clips
    points = [min(x, content_frames / 100) for x in points]
    return {**options, "clip_timestamps": ",".join(map(str, points)) if as_text else points}


@settings(RELAXED, max_examples=400)
@given(scripts, st.one_of(st.integers(0, 9000), st.sampled_from([0, 1, 2999, 3000, 3001])), options)
def test_the_loop_does_what_the_reference_does(script, content_frames, options):
    assert_equal(script, content_frames, within(options, content_frames))


@settings(RELAXED, max_examples=500)
@given(
    scripts,
    st.integers(0, 9000),
    st.fixed_dictionaries(
        {
            "hallucination_silence_threshold": st.sampled_from([None, 0.1, 0.5, 2.0, 5.0]),
            "language": st.just("en"),
        },
        optional={"verbose": st.just(False), "compression_ratio_threshold": st.none()},
    ),
)
def test_words_move_the_loop_as_in_the_reference(script, content_frames, options):
    assert_equal(script, content_frames, {"word_timestamps": True, "no_speech_threshold": 0.9, **options})


def test_printed_segments():
    script = {
        "answers": [Answer([TIMESTAMP, 2425, 264, TIMESTAMP + 150, TIMESTAMP + 150, 3078, TIMESTAMP + 400])],
        "words": [],
        "multilingual": True,
    }
    seen = assert_equal(script, 3500, {"verbose": True})
    assert seen["printed"].startswith("Detecting language using up to the first 30 seconds.")
    assert "Detected language: German" in seen["printed"]
    assert "[00:00.000 --> 00:03.000]" in seen["printed"]


def test_the_progress_bar_reaches_the_end():
    script = {
        "answers": [Answer([TIMESTAMP, 9, TIMESTAMP + 500, TIMESTAMP + 500])],
        "words": [],
        "multilingual": True,
    }
    seen = assert_equal(script, 7000, {"verbose": False, "language": "en"})
    assert seen["progress"] == [
        {"total": 7000, "unit": "frames", "disable": False},
        1000,
        3000,
        3000,
        "closed",
    ]


def test_each_window_sees_the_text_before_it():
    script = {
        "answers": [Answer([11, 12]), Answer([21, 22]), Answer([31])],
        "words": [],
        "multilingual": True,
    }
    seen = assert_equal(
        script, 9000, {"language": "en", "initial_prompt": "Ada", "carry_initial_prompt": True}
    )
    prompts = [options["prompt"] for _, options in seen["decode"]]
    ada = get_tokenizer(True).encode(" Ada")
    assert prompts == [ada, [*ada, 11, 12], [*ada, 11, 12, 21, 22]]


def test_the_signature_is_the_reference_s():
    ours, reference = (
        [(p.name, p.kind, p.default) for p in inspect.signature(module.transcribe).parameters.values()]
        for module in (OURS, REFERENCE)
    )
    assert ours == [*reference[:-1], ("batch_size", inspect.Parameter.KEYWORD_ONLY, 4), reference[-1]]


def test_the_names_that_others_import_or_replace_are_here():
    typing = {"List", "Optional", "Tuple", "Union", "TYPE_CHECKING"}
    names = {name for name in vars(REFERENCE) if not name.startswith("__")} - typing - {"traceback"}
    assert names <= vars(OURS).keys()


# What the reference cannot do.


def script_of(*answers, words=()):
    return {"answers": answers, "words": words, "multilingual": True}


@pytest.mark.parametrize("clips", ["0,1000", [5, 60, 2, 1e6], "70,80"])
def test_clips_end_with_the_recording(clips):
    seen = observe(OURS, script_of(), 4000, {"clip_timestamps": clips, "language": "en"})
    assert all(segment["end"] <= 40 for segment in seen["result"]["segments"])


@pytest.mark.parametrize("clips", ["nan", "0,inf", "zero", [float("nan")]])
def test_clips_that_are_no_times_are_refused(clips):
    with pytest.raises(ValueError):
        observe(OURS, script_of(), 4000, {"clip_timestamps": clips, "language": "en"})


def test_answers_that_do_not_advance_do_not_hang():
    stuck = Answer([TIMESTAMP, 9, TIMESTAMP, TIMESTAMP, 9])
    script = {"answers": itertools.repeat(stuck), "words": (), "multilingual": True}
    seen = observe(OURS, script, 4000, {"language": "en"})
    assert len(seen["decode"]) == 2


@pytest.mark.parametrize("threshold", [-1.0, 0.0])
def test_a_silence_threshold_below_every_silence_does_not_hang(threshold):
    doubtful = [[(0, 1, 0.01, " word")]] * 100
    options = {
        "hallucination_silence_threshold": threshold,
        "word_timestamps": True,
        "language": "en",
    }
    script = {"answers": (), "words": itertools.cycle(doubtful), "multilingual": True}
    seen = observe(OURS, script, 1000, options)
    assert len(seen["decode"]) <= 1000


def test_temperatures_of_other_types():
    for temperature in (np.float32(0.5), iter([0.0, 0.5]), np.array([0.0, 0.5])):
        observe(OURS, script_of(), 9000, {"temperature": temperature, "language": "en"})
    with pytest.raises(ValueError, match="temperature is empty"):
        observe(OURS, script_of(), 4000, {"temperature": (), "language": "en"})


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="beam_sice"):
        observe(OURS, script_of(), 4000, {"beam_sice": 5, "language": "en"})


def test_audio_of_two_channels_is_refused():
    with (
        mock.patch.object(OURS, "log_mel_spectrogram", lambda *args, **kwargs: torch.zeros(2, 80, 3000)),
        pytest.raises(ValueError, match="2 dimensions"),
    ):
        OURS.transcribe(ScriptedModel(()), np.zeros((2, 9), np.float32))


# How often the encoder runs. The models are untrained; without timestamps each window is 30 s.


class CountingEncoder(AudioEncoder):
    runs = 0

    def forward(self, x):
        self.runs += 1
        return super().forward(x)


def untrained(multilingual=True):
    torch.manual_seed(0)
    n_vocab = 51864 + multilingual
    model = Whisper(ModelDimensions(80, 1500, 16, 2, 1, n_vocab, 448, 16, 2, 1))
    model.encoder = CountingEncoder(80, 1500, 16, 2, 1)
    return model


def transcribe_noise(model, seconds, **options):
    audio = np.random.default_rng(0).normal(size=round(seconds * 16000)).astype(np.float32) / 10
    options = {"without_timestamps": True, "sample_len": 4, "fp16": False, **options}
    torch.manual_seed(0)
    return OURS.transcribe(model, audio, **options)


failing = {"logprob_threshold": 0.0, "no_speech_threshold": None, "temperature": (0.0, 0.5, 1.0)}


@pytest.mark.parametrize("seconds", [10, 30, 65])
@pytest.mark.parametrize("options", [{}, failing, {"word_timestamps": True}])
def test_a_window_is_encoded_once(seconds, options):
    model = untrained()
    result = transcribe_noise(model, seconds, **options)
    windows = {segment["seek"] for segment in result["segments"]}
    # The window that the language is detected on is the first one only if it is full.
    assert model.encoder.runs == len(windows) + (seconds < 30)


def test_hooks_in_the_encoder_see_every_run_that_the_reference_makes():
    model = untrained(multilingual=False)
    runs = []
    model.encoder.conv1.register_forward_hook(lambda *_: runs.append(1))
    transcribe_noise(model, 30, **failing)
    assert len(runs) == 3


def test_a_decode_from_elsewhere_gets_the_spectrogram():
    model = untrained(multilingual=False)
    seen = []

    def decode(mel, options):
        seen.append(mel.shape)
        return Whisper.decode(model, mel, options)

    model.decode = decode
    transcribe_noise(model, 30)
    assert seen == [(80, 3000)]


def test_an_alignment_from_elsewhere_gets_the_spectrogram():
    seen = []
    with mock.patch.object(OURS, "add_word_timestamps", lambda **kwargs: seen.append(kwargs["mel"].shape)):
        transcribe_noise(untrained(), 30, word_timestamps=True)
    assert seen == [(80, 3000)]


@pytest.mark.parametrize("options", [{}, failing])
def test_features_give_what_the_spectrogram_gives(options):
    once = transcribe_noise(untrained(), 40, **options)
    with mock.patch.object(_recording, "takes_features", lambda model: False):
        assert transcribe_noise(untrained(), 40, **options) == once
