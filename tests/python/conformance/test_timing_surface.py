"""The functions of whisper.timing."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from conftest import ROOT

JFK = str(ROOT / "examples" / "jfk.flac")


@pytest.fixture
def tokenizer(package):
    return package.tokenizer.get_tokenizer(True, language="en", task="transcribe")


@pytest.fixture
def window(package, demo):
    return package.root.pad_or_trim(package.root.log_mel_spectrogram(JFK), 3000)


@pytest.fixture
def timed(package):
    """WordTimings of the given words, one second each."""

    def make(*words):
        return [package.timing.WordTiming(w, [i], float(i), i + 1.0, 0.5) for i, w in enumerate(words)]

    return make


def test_word_timings(package):
    cls = package.timing.WordTiming
    assert [f.name for f in dataclasses.fields(cls)] == ["word", "tokens", "start", "end", "probability"]
    assert cls(" a", [1], 0.0, 1.0, 0.5) == cls(" a", [1], 0.0, 1.0, 0.5)


def test_keywords(package):
    found = inspect.signature(package.timing.add_word_timestamps).parameters
    assert found["prepend_punctuations"].default == "\"'“¿([{-"
    assert found["append_punctuations"].default == "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
    assert found["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    found = inspect.signature(package.timing.find_alignment).parameters
    assert (found["medfilt_width"].default, found["qk_scale"].default) == (7, 1.0)


@pytest.mark.parametrize("part", ["median_filter", "dtw"])
def test_parts_can_be_replaced(package, demo, tokenizer, window, monkeypatch, part):
    """Programs put algorithms of their own into `whisper.timing`."""
    text = tokenizer.encode(" ask not what your country can do for you.")
    wanted = package.timing.find_alignment(demo, tokenizer, text, window, 1100)
    stock, calls = getattr(package.timing, part), []
    monkeypatch.setattr(
        package.timing, part, lambda x, *rest: calls.append(tuple(x.shape)) or stock(x, *rest)
    )
    assert package.timing.find_alignment(demo, tokenizer, text, window, 1100) == wanted
    heads = len(demo.alignment_heads.indices().T)
    rows = len(text) + 2 + len(tokenizer.sot_sequence)
    assert calls == [{"median_filter": (heads, rows, 550), "dtw": (len(text) + 1, 550)}[part]]


def test_the_words_of_a_text(package, demo, tokenizer, window):
    text = tokenizer.encode(" ask not what your country can do for you.")
    words = package.timing.find_alignment(demo, tokenizer, text, window, 1100)
    assert [w.word for w in words] == [
        " ask",
        " not",
        " what",
        " your",
        " country",
        " can",
        " do",
        " for",
        " you",
        ".",
    ]
    assert [t for w in words for t in w.tokens] == text
    assert all(type(w.start) is np.float64 and w.start <= w.end <= 11 for w in words)
    assert all(0 <= w.probability <= 1 for w in words)
    assert [a.end for a in words[:-1]] == [b.start for b in words[1:]]


def test_no_text_has_no_words(package, demo, tokenizer, window):
    assert package.timing.find_alignment(demo, tokenizer, [], window, 1100) == []


def test_special_tokens_are_no_text(package, demo, tokenizer, window):
    with pytest.raises(IndexError, match="50257 is out of"):
        package.timing.find_alignment(demo, tokenizer, [tokenizer.eot], window, 1100)


def test_no_attention_of_the_model_is_fused_meanwhile(package, demo, tokenizer, window):
    """Programs that hook the encoder see its scores too."""
    seen = []
    attentions = (demo.encoder.blocks[0].attn, demo.decoder.blocks[0].attn, demo.decoder.blocks[0].cross_attn)
    hooks = [a.register_forward_hook(lambda _, __, out: seen.append(out[1].shape[-1])) for a in attentions]
    text = tokenizer.encode(" ask")
    package.timing.find_alignment(demo, tokenizer, text, window, 1100)
    for hook in hooks:
        hook.remove()
    assert seen == [1500, 6, 1500]  # <|sot|><|en|><|transcribe|><|notimestamps|> ask<|eot|>


def test_few_frames_are_not_filtered(package, demo, tokenizer, window):
    text = tokenizer.encode(" ask")
    assert package.timing.find_alignment(demo, tokenizer, text, window, 6)[0].end <= 0.06


def test_hooks_go_when_the_model_fails(package, demo, tokenizer, window):
    """The reference leaves its own behind."""

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = demo.decoder.ln.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        package.timing.find_alignment(demo, tokenizer, [400], window, 1100)
    handle.remove()
    left = [m for m in demo.modules() if m._forward_hooks]
    for module in left:
        module._forward_hooks.clear()
    assert bool(left) == package.is_reference
    assert package.model.MultiHeadAttention.use_sdpa is True


def test_median_filter(package):
    x = torch.tensor([[1.0, 9.0, 2.0, 8.0, 3.0]])
    assert package.timing.median_filter(x, 3).tolist() == [[9.0, 2.0, 8.0, 3.0, 8.0]]
    assert package.timing.median_filter(x, 11) is x
    with pytest.raises(AssertionError, match="`filter_width` should be an odd number"):
        package.timing.median_filter(x, 4)


def test_dtw_prefers_the_right(package):
    flat = np.zeros((2, 3))
    path = package.timing.dtw_cpu(flat)
    assert path.dtype == np.int64 and path.shape[0] == 2
    assert package.timing.dtw(torch.zeros(2, 3)).tolist() == path.tolist()
    # At the last cell all three ways cost the same: the reference comes from the left.
    assert path[:, -2].tolist() == [1, 1]


def test_backtrace_writes_into_its_input(package):
    trace = np.zeros((3, 4), dtype=np.float32)
    assert package.timing.backtrace(trace).tolist() == [[-1, 0, 1], [0, 1, 2]]
    assert trace[0, 1:].tolist() == [2.0] * 3 and trace[:, 0].tolist() == [1.0] * 3


def test_backtrace_of_an_unknown_move(package):
    trace = np.full((3, 3), 7, dtype=np.float32)
    with pytest.raises(ValueError, match=r"Unexpected trace\[i, j\]"):
        package.timing.backtrace(trace)


class TestMergePunctuations:
    def merge(self, package, timed, *words, prepended="(¿", appended=".,!?)"):
        alignment = timed(*words)
        package.timing.merge_punctuations(alignment, prepended, appended)
        return [w.word for w in alignment], [w.tokens for w in alignment]

    def test_marks_join_their_words(self, package, timed):
        words, tokens = self.merge(package, timed, " (", "Ada", ")", ",", " Bob", "!")
        assert words == ["", " (Ada),", "", "", " Bob!", ""]
        assert tokens == [[], [0, 1, 2, 3], [], [], [4, 5], []]

    def test_marks_before_a_word_need_a_space(self, package, timed):
        assert self.merge(package, timed, "(", "Ada")[0] == ["(", "Ada"]

    def test_nothing_joins_a_word_that_ends_with_a_space(self, package, timed):
        assert self.merge(package, timed, "Ada ", ".")[0] == ["Ada ", "."]

    def test_a_run_of_marks_is_one(self, package, timed):
        """A substring of the marks counts, as does an empty word."""
        assert self.merge(package, timed, "Ada", ".,", "")[0] == ["Ada.,", "", ""]
        assert self.merge(package, timed, "Ada", ",.")[0] == ["Ada", ",."]


class TestAddWordTimestamps:
    @pytest.fixture
    def add(self, package, tokenizer, demo, monkeypatch):
        def add(words, segments, last_speech=0.0):
            alignment = [package.timing.WordTiming(w, t, s, e, 0.5) for w, t, s, e in words]
            monkeypatch.setattr(package.timing, "find_alignment", lambda *_, **__: alignment)
            package.timing.add_word_timestamps(
                segments=segments,
                model=demo,
                tokenizer=tokenizer,
                mel=torch.zeros(80, 3000),
                num_frames=3000,
                last_speech_timestamp=last_speech,
            )
            return segments

        return add

    def segment(self, tokens, start, end, seek=1000):
        return {"seek": seek, "start": start, "end": end, "tokens": tokens}

    def test_times_count_from_the_window(self, add):
        words = [(" a", [1], 0.0, 0.301), (" b", [2], 0.301, 0.5)]
        (segment,) = add(words, [self.segment([50364, 1, 2, 50400], 10.0, 10.5)])
        assert segment["words"] == [
            {"word": " a", "start": 10.0, "end": 10.3, "probability": 0.5},
            {"word": " b", "start": 10.3, "end": 10.5, "probability": 0.5},
        ]
        assert (segment["start"], segment["end"]) == (10.0, 10.5)

    def test_segments_take_their_times_from_the_words(self, add):
        words = [(" a", [1], 1.0, 1.3), (" b", [2], 2.0, 2.4)]
        first, second = add(words, [self.segment([1], 10.8, 11.5), self.segment([2], 11.9, 12.1)])
        assert (first["start"], first["end"], second["start"], second["end"]) == (11.0, 11.3, 12.0, 12.4)

    def test_words_far_outside_follow_the_segment(self, add):
        words = [(" a", [1], 0.0, 1.5), (" b", [2], 1.5, 1.8), (" c", [3], 1.8, 4.0)]
        (segment,) = add(words, [self.segment([1, 2, 3], 11.2, 12.2)], last_speech=11.0)
        assert segment["words"][0]["start"] == pytest.approx(10.8)  # its end less a typical word
        assert segment["words"][-1]["end"] == pytest.approx(12.5)

    def test_long_words_after_a_pause_are_shortened(self, add):
        words = [(" a", [1], 0.0, 9.0), (" b", [2], 9.0, 9.4), (" c", [3], 9.4, 9.8)]
        (segment,) = add(words, [self.segment([1, 2, 3], 10.0, 19.8)], last_speech=2.0)
        assert segment["words"][0]["start"] == pytest.approx(
            18.2
        )  # 0.4 s is typical, and twice that the most

    def test_words_that_were_merged_away_are_not_listed(self, add):
        words = [(" a", [1], 0.0, 0.3), (",", [2], 0.3, 0.4)]
        (segment,) = add(words, [self.segment([1, 2], 10.0, 10.4)])
        assert [(w["word"], w["end"]) for w in segment["words"]] == [(" a,", 10.3)]

    def test_no_segments(self, add):
        assert add([], []) == []


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", [" Ich", " ging", " heim"]),
        # By token:
        *((code, [" Ich", " ging", " he", "im"]) for code in ("zh", "ja", "th", "lo", "my", "yue")),
    ],
)
def test_words_are_split_by_language(package, language, words):
    tokenizer = package.tokenizer.get_tokenizer(True, num_languages=100, language=language)
    ids = tokenizer.encode(" Ich ging heim")
    found, tokens = tokenizer.split_to_word_tokens(ids)
    assert (found, [t for word in tokens for t in word]) == (words, ids)


def test_kernels_of_triton_fail_with_a_sentence():
    """The reference warns and goes on with a slower kernel; this package has no Triton kernels."""
    import torchwhisper.triton_ops

    with pytest.raises(ImportError, match=r"call torchwhisper[.]timing[.]dtw, which works on every device"):
        _ = torchwhisper.triton_ops.dtw_kernel
