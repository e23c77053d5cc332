"""Labels as openai-whisper's models were trained on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchwhisper.tokenizer import get_tokenizer
from torchwhisper.training import IGNORED, build_labels

ENGLISH = get_tokenizer(True, language="en", task="transcribe")


def shown(labels):
    """Each token with what has to follow it."""
    decode = ENGLISH.encoding.decode
    return [
        (decode([token]), None if target == IGNORED else decode([target]))
        for token, target in zip(*labels, strict=True)
    ]


def test_text_alone():
    assert shown(build_labels(ENGLISH, 448, "Hello world")) == [
        ("<|startoftranscript|>", "<|en|>"),
        ("<|en|>", "<|transcribe|>"),
        ("<|transcribe|>", "<|notimestamps|>"),
        ("<|notimestamps|>", " Hello"),
        (" Hello", " world"),
        (" world", "<|endoftext|>"),
    ]


def test_silence_ends_at_once():
    assert shown(build_labels(ENGLISH, 448, " "))[-1] == ("<|notimestamps|>", "<|endoftext|>")


def test_the_prompt_is_read_and_not_learnt():
    labels = shown(build_labels(ENGLISH, 448, "Yes", previous="Well then"))
    assert labels[:4] == [
        ("<|startofprev|>", None),
        (" Well", None),
        (" then", None),
        ("<|startoftranscript|>", "<|en|>"),
    ]


def test_timestamps():
    labels = shown(build_labels(ENGLISH, 448, "", segments=((0.0, 1.0, "One"), (1.5, 2.02, "two"))))
    assert [target for _, target in labels[2:]] == [
        "<|0.00|>", " One", "<|1.00|>", "<|1.50|>", " two", "<|2.02|>", "<|endoftext|>",
    ]  # fmt: skip


def test_times_end_with_the_window():
    """A recording of 30 s whose header rounds has times behind it, and there are no tokens for them."""
    last = build_labels(ENGLISH, 448, "", segments=((29.0, 30.09, "end"),)).targets[-2]
    assert ENGLISH.encoding.decode([last]) == "<|30.00|>"


@pytest.mark.parametrize("given", [{"text": "a <|nospeech|>"}, {"text": "a", "previous": "<|en|>"}])
def test_special_tokens_are_no_text(given):
    with pytest.raises(ValueError, match=r"the text has the special token <\|\w+\|> in it$"):
        build_labels(ENGLISH, 448, **given)


def test_models_of_english_only_have_a_shorter_start():
    tokenizer = get_tokenizer(False)
    labels = build_labels(tokenizer, 448, "Yes")
    assert labels.tokens[:2] == [tokenizer.sot, tokenizer.no_timestamps]


def test_too_long_a_label_is_refused():
    text = " ".join(["word"] * 444)
    assert len(build_labels(ENGLISH, 448, text).tokens) == 448
    with pytest.raises(ValueError, match="the label has 449 tokens, the model takes at most 448"):
        build_labels(ENGLISH, 448, text + " word")


@given(st.integers(0, 600), st.integers(0, 440))
def test_a_prompt_takes_at_most_half_and_never_the_place_of_the_text(n_prompt, n_text):
    labels = build_labels(ENGLISH, 448, " ".join(["a"] * n_text), previous=" ".join(["word"] * n_prompt))
    assert len(labels.tokens) == len(labels.targets) <= 448
    start = labels.tokens.index(ENGLISH.sot)
    assert start <= 224
    assert labels.targets[:start] == [IGNORED] * start
    assert IGNORED not in labels.targets[start:]
    assert labels.targets[-1] == ENGLISH.eot
    assert labels.targets.count(ENGLISH.encode(" a")[0]) == n_text
