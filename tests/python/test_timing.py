"""Word timestamps: the times, words and probabilities of openai-whisper's whisper/timing.py."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import whisper
import whisper.timing as reference
from hypothesis import given, settings
from hypothesis import strategies as st

import torchwhisper
from torchwhisper import _C, timing
from torchwhisper.tokenizer import get_tokenizer

PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
EOT = 50257

WORDS = st.sampled_from(
    [
        "",
        " ",
        " Hi",
        "you",
        " you",
        ".",
        " .",
        "!",
        " -",
        " ¿",
        '"',
        ' "',
        " (",
        ")",
        ",",
        "。",
        "ing",
        " a ",
        "x.",
    ]
)


@st.composite
def alignments(draw, n_words=None):
    """Words one behind the other, some without length, some long."""
    alignment, now = [], draw(st.floats(0, 2))
    for _ in range(n_words if n_words is not None else draw(st.integers(0, 12))):
        start = now + draw(st.sampled_from([0.0, 0.0, 0.02, 0.5, 3.0]))
        now = start + draw(st.sampled_from([0.0, 0.02, 0.3, 0.3, 0.31, 0.8, 2.5, 9.0]))
        tokens = draw(st.lists(st.integers(0, EOT - 1), max_size=3))
        alignment.append((draw(WORDS), tokens, start, now, draw(st.floats(0, 1))))
    return alignment


def timings(module, alignment):
    return [module.WordTiming(word, list(tokens), *rest) for word, tokens, *rest in alignment]


def as_tuples(alignment):
    return [dataclasses.astuple(word) for word in alignment]


@given(alignments(), st.sampled_from([PREPENDED, "", "-"]), st.sampled_from([APPENDED, "", "."]))
@settings(deadline=None)
def test_merge_punctuations(alignment, prepended, appended):
    ours, theirs = timings(timing, alignment), timings(reference, alignment)
    timing.merge_punctuations(ours, prepended, appended)
    reference.merge_punctuations(theirs, prepended, appended)
    assert as_tuples(ours) == as_tuples(theirs)


@st.composite
def windows(draw):
    """An alignment, and segments of its tokens (with timestamps among them) that fit it more or less."""
    alignment = draw(alignments())
    text = [token for _, tokens, *_ in alignment for token in tokens]
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    parts = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    seek = draw(st.sampled_from([0, 1234, 3000]))
    segments, now = [], seek / 100
    for part in parts:
        start = now + draw(st.sampled_from([0.0, 0.3, 0.7, 4.0]))
        now = start + draw(st.sampled_from([0.0, 0.4, 1.0, 6.0]))
        tokens = [EOT + 107, *part, EOT + 200]
        segments.append({"seek": seek, "start": start, "end": now, "tokens": tokens, "text": "x"})
    return alignment, segments, draw(st.sampled_from([0.0, 5.0, seek / 100, now]))


@given(windows())
@settings(deadline=None, max_examples=400)
def test_add_word_timestamps(window):
    alignment, segments, last_speech_timestamp = window
    results = []
    for module in (timing, reference):
        seen = []

        def find_alignment(
            model, tokenizer, text_tokens, mel, num_frames, *, module=module, seen=seen, **kwargs
        ):
            seen.append((text_tokens, num_frames, kwargs))
            return timings(module, alignment)

        mine = copy.deepcopy(segments)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "find_alignment", find_alignment)
            module.add_word_timestamps(
                segments=mine,
                model=None,
                tokenizer=get_tokenizer(True),
                mel=None,
                num_frames=1000,
                last_speech_timestamp=last_speech_timestamp,
                medfilt_width=5,
            )
        results.append((mine, seen))
    assert results[0] == results[1]


def test_no_segments_need_no_model():
    timing.add_word_timestamps(
        segments=[], model=None, tokenizer=None, mel=None, num_frames=0, last_speech_timestamp=0.0
    )


DIMS = dict(
    n_mels=80, n_audio_ctx=100, n_audio_state=32, n_audio_head=4, n_audio_layer=1,
    n_vocab=51865, n_text_ctx=64, n_text_state=32, n_text_head=4, n_text_layer=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    """The same small random model here and in the reference."""
    torch.manual_seed(0)
    theirs = whisper.model.Whisper(whisper.ModelDimensions(**DIMS))
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "query" in name or "key" in name:
                tensor.normal_(0, 0.4)
            elif "positional" in name:
                tensor.normal_(0, 1)
    ours = torchwhisper.Whisper(torchwhisper.ModelDimensions(**DIMS))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def mel(seed=0):
    return torch.randn(80, 200, generator=torch.Generator().manual_seed(seed))


def assert_same_alignment(got, expected):
    assert [(w.word, w.tokens, w.start, w.end) for w in got] == [
        (w.word, w.tokens, w.start, w.end) for w in expected
    ]
    np.testing.assert_allclose([w.probability for w in got], [w.probability for w in expected], rtol=1e-4)


TEXT = " And so, my fellow Americans: ask not what your country can do for you."


class TestFindAlignment:
    def align(self, pair, text_tokens, num_frames, seed=0, language="en", **options):
        ours, theirs = pair
        got = timing.find_alignment(
            ours, get_tokenizer(True, language=language), text_tokens, mel(seed), num_frames, **options
        )
        tokenizer = whisper.tokenizer.get_tokenizer(True, language=language)
        expected = reference.find_alignment(theirs, tokenizer, text_tokens, mel(seed), num_frames, **options)
        assert_same_alignment(got, expected)
        return got

    @pytest.mark.parametrize("num_frames", [200, 131, 40])
    @pytest.mark.parametrize("seed", range(3))
    def test_equals_the_reference(self, pair, lane, num_frames, seed):
        assert len(self.align(pair, get_tokenizer(True).encode(TEXT), num_frames, seed)) == 17

    @pytest.mark.parametrize("options", [{"medfilt_width": 1}, {"medfilt_width": 13}, {"qk_scale": 3.0}])
    def test_options(self, pair, lane, options):
        self.align(pair, get_tokenizer(True).encode(TEXT), 180, **options)

    @pytest.mark.filterwarnings("ignore:std_mean")
    @pytest.mark.parametrize(
        ("width", "num_frames"), [(4, 3), (4, 5), (4, 6), (4, 200), (0, 0), (0, 3), (-1, 200)]
    )
    def test_even_widths(self, pair, lane, num_frames, width):
        tokens = get_tokenizer(True).encode(TEXT)
        if num_frames // 2 <= width // 2:
            self.align(pair, tokens, num_frames, medfilt_width=width)
            return
        for align, model in zip((timing.find_alignment, reference.find_alignment), pair, strict=True):
            with pytest.raises(AssertionError, match="`filter_width` should be an odd number"):
                align(model, get_tokenizer(True), tokens, mel(), num_frames, medfilt_width=width)

    def test_other_languages(self, pair, lane):
        self.align(pair, get_tokenizer(True).encode("東京タワーに行きました。"), 200, language="ja")

    def test_chosen_heads(self, pair, lane):
        heads = torch.zeros(3, 4, dtype=torch.bool)
        heads[0, 1] = heads[2, 3] = True
        pair = [copy.deepcopy(model) for model in pair]
        for model in pair:
            model.alignment_heads = heads.to_sparse()
        self.align(pair, get_tokenizer(True).encode(TEXT), 180)

    @pytest.mark.filterwarnings("ignore:std_mean")  # the reference's, without frames
    @pytest.mark.parametrize("num_frames", [0, 1, 2, 3, 5, 8, 10_000, -100])
    @pytest.mark.parametrize("n_tokens", [1, 5])
    def test_few_frames_and_tokens(self, pair, lane, num_frames, n_tokens):
        self.align(pair, get_tokenizer(True).encode(TEXT)[:n_tokens], num_frames)

    def test_no_text(self, pair, lane):
        assert self.align(pair, [], 200) == []

    def test_features_stand_for_the_window(self, pair, lane):
        ours, _ = pair
        tokenizer = get_tokenizer(True)
        tokens = tokenizer.encode(TEXT)
        with torch.no_grad():
            features = ours.embed_audio(mel()[None])[0]
        got = timing.find_alignment(ours, tokenizer, tokens, features, 200)
        assert_same_alignment(got, timing.find_alignment(ours, tokenizer, tokens, mel(), 200))

    def test_leaves_no_traces(self, pair, lane, monkeypatch):
        ours, _ = pair
        before = torch.is_grad_enabled()
        tokenizer = get_tokenizer(True)
        too_long = tokenizer.encode(TEXT) * 9
        with pytest.raises((RuntimeError, ValueError)):
            timing.find_alignment(ours, tokenizer, too_long, mel(), 200)
        assert not any(module._forward_hooks for module in ours.modules())
        assert torchwhisper.model.MultiHeadAttention.use_sdpa is True
        assert torch.is_grad_enabled() == before
        self.align(pair, tokenizer.encode(TEXT), 200)


def test_hooks_of_others_are_called(pair):
    """Programs watch every cross_attn, with sdpa switched off: then the Python path is taken."""
    ours, _ = pair
    tokenizer = get_tokenizer(True)
    seen = []
    hooks = [
        block.cross_attn.register_forward_hook(lambda module, ins, outs: seen.append(outs[-1].shape))
        for block in ours.decoder.blocks
    ]
    try:
        timing.find_alignment(ours, tokenizer, tokenizer.encode(TEXT), mel(), 200)
    finally:
        for hook in hooks:
            hook.remove()
    n_tokens = len(tokenizer.encode(TEXT)) + len(tokenizer.sot_sequence) + 2
    assert seen == [(1, 4, n_tokens, 100)] * 3


@pytest.fixture(scope="module", params=["demo", "tiny"])
def speech(request, shared):
    """A trained model here, a window of speech, and the reference's answer."""
    checkpoint, audio = shared(f"models/{request.param}.pt"), shared("audio/jfk.flac")
    window = whisper.pad_or_trim(whisper.log_mel_spectrogram(whisper.load_audio(str(audio))), 3000)
    theirs = whisper.load_model(str(checkpoint), "cpu")
    tokenizer = whisper.tokenizer.get_tokenizer(True, language="en")
    expected = reference.find_alignment(theirs, tokenizer, tokenizer.encode(TEXT), window, 1100)
    return torchwhisper.load_model(str(checkpoint), "cpu"), window, expected


def test_speech(speech, lane):
    ours, window, expected = speech
    tokenizer = get_tokenizer(True, language="en")
    got = timing.find_alignment(ours, tokenizer, tokenizer.encode(TEXT), window, 1100)
    assert_same_alignment(got, expected)


def test_cancelling_stops_the_alignment():
    control = _C.Control()
    control.cancel()
    with pytest.raises(_C.Cancelled, match="cancelled"):
        _C.align(torch.zeros(1, 7, 60), 3, 60, 7, 1.0, control)


def test_progress_is_told_per_row():
    seen = []
    _C.dtw(torch.zeros(4, 5), _C.Control(lambda stage, done: seen.append((stage, done))))
    assert seen == [("align", row) for row in (1, 2, 3, 4)]
