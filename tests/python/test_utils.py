import io
import sys

import numpy as np
import pytest
import whisper.utils as reference
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import torchwhisper.utils as ours

# However busy the machine is.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.characters(exclude_categories=["Cs"]))


@RELAXED
@given(text)
def test_compression_ratio(s):
    assert ours.compression_ratio(s) == reference.compression_ratio(s)


@RELAXED
@given(st.integers(-1000, 1000), st.integers(-1000, 1000).filter(bool))
def test_exact_div(x, y):
    if x % y:
        with pytest.raises(AssertionError):
            ours.exact_div(x, y)
    else:
        assert ours.exact_div(x, y) == reference.exact_div(x, y)


@RELAXED
@given(
    st.one_of(text, st.integers().map(str), st.floats().map(str), st.sampled_from(["None", "True", "False"]))
)
def test_parsers_of_options(s):
    for name in ("str2bool", "optional_int", "optional_float"):
        try:
            expected = getattr(reference, name)(s)
        except ValueError as error:
            message = str(error)
            with pytest.raises(ValueError) as raised:
                getattr(ours, name)(s)
            assert str(raised.value) == message
        else:
            np.testing.assert_equal(getattr(ours, name)(s), expected)


@RELAXED
@given(st.floats(-1, 1e6), st.booleans(), st.sampled_from([".", ","]))
@example(3599.9995, False, ".")
@example(np.float64(59.9996), True, ",")
def test_format_timestamp(seconds, hours, mark):
    if seconds < 0:
        with pytest.raises(AssertionError, match="non-negative timestamp expected"):
            ours.format_timestamp(seconds, hours, mark)
    else:
        assert ours.format_timestamp(seconds, hours, mark) == reference.format_timestamp(seconds, hours, mark)


words = st.lists(st.fixed_dictionaries({"start": st.floats(0, 9), "end": st.floats(0, 9)}), max_size=3)
segments = st.lists(
    st.fixed_dictionaries({"start": st.floats(0, 9), "end": st.floats(0, 9), "words": words}), max_size=3
)


@RELAXED
@given(segments)
def test_start_and_end(segments):
    assert ours.get_start(segments) == reference.get_start(segments)
    assert ours.get_end(segments) == reference.get_end(segments)


def test_start_and_end_without_words():
    segments = [{"start": 1.0, "end": 2.0}, {"start": 2.0, "end": 3.0}]
    assert (ours.get_start(segments), ours.get_end(segments)) == (1.0, 3.0)


@RELAXED
@given(text)
def test_make_safe_leaves_what_the_terminal_can_show(s):
    assume(getattr(sys.stdout, "encoding", None) == "utf-8")
    assert ours.make_safe(s) == reference.make_safe(s) == s


def test_make_safe_replaces_what_the_terminal_cannot_show(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert ours.make_safe("où 다람쥐") == "où ???"


def test_incidental_names():
    # other projects write `from whisper.utils import ..., sys`
    for name in ("json", "os", "re", "sys", "zlib", "system_encoding"):
        assert getattr(ours, name) is getattr(reference, name)
