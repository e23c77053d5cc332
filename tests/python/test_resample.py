"""Resampling: ffmpeg's lengths, and its samples to within -90 dBFS."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import JFK, SHARED, convert, needs_ffmpeg, needs_shared, rms_dbfs

import torchwhisper.audio as audio
from torchwhisper import _C


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch):
    whisper = pytest.importorskip("whisper")
    monkeypatch.setattr(audio, "_run_ffmpeg", lambda *_: pytest.fail("ffmpeg was used"))
    return whisper.load_audio


def assert_near(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.01
    assert rms_dbfs(ours - theirs) <= -90


@needs_ffmpeg
def test_the_bundled_recording(reference) -> None:
    assert_near(audio.load_audio(str(JFK)), reference(str(JFK)))


@needs_ffmpeg
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", ["u8", "s16le", "s24le", "f32le", "f64le"])
@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_rates(reference, tmp_path: Path, rate: int, encoding: str, channels: int) -> None:
    path = convert(JFK, tmp_path / "a.wav", "-ar", rate, "-ac", channels, "-c:a", f"pcm_{encoding}")
    assert_near(audio.load_audio(path), reference(str(path)))


@needs_ffmpeg
@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
@pytest.mark.parametrize("rate", [7999, 12345, 15999, 16001, 44101, 100003])
def test_rates_that_interpolate_between_filters(reference, tmp_path: Path, rate: int, encoding: str) -> None:
    path = convert(JFK, tmp_path / "a.wav", "-ar", rate, "-ac", 1, "-c:a", f"pcm_{encoding}")
    assert_near(audio.load_audio(path), reference(str(path)))


@needs_ffmpeg
@pytest.mark.parametrize("wanted", [8000, 16001, 44100])
def test_other_rates_than_the_models(reference, wanted: int) -> None:
    assert_near(audio.load_audio(JFK, sr=wanted), reference(str(JFK), sr=wanted))


@needs_ffmpeg
@needs_shared
def test_telephone_recordings(reference) -> None:
    paths = sorted((SHARED / "data" / "fsdd").glob("*.wav"))[::100]
    assert paths
    for path in paths:
        np.testing.assert_array_equal(audio.load_audio(path), reference(str(path)))


RATES = st.one_of(
    st.integers(1, 200_000), st.sampled_from([8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000])
)


@settings(max_examples=200, deadline=None)
@given(samples=st.integers(0, 3000), rate=RATES, wanted=st.integers(1000, 48_000))
def test_lengths_follow_the_ratio(samples: int, rate: int, wanted: int) -> None:
    length = len(_C.resample(np.zeros(samples, np.float32), rate, wanted))
    # ffmpeg gives nothing for less than two thirds of a filter, and may drop the last sample.
    taps = 32 * max(1, rate / wanted / 0.97) + 2
    if samples > taps:
        assert abs(length - samples * wanted / rate) <= max(1, wanted / rate)
    elif samples < 0.6 * taps - 4:
        assert length == 0


@needs_ffmpeg
@settings(max_examples=30, deadline=None)
@given(samples=st.integers(0, 3000), rate=RATES.filter(lambda rate: rate >= 1000), seed=st.integers(0, 99))
def test_lengths_and_values_equal_ffmpegs(samples: int, rate: int, seed: int) -> None:
    signal = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
    raw = ["-f", "f32le", "-ac", "1"]
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-nostdin",
        *raw,
        "-ar",
        str(rate),
        "-i",
        "-",
        *raw,
        "-ar",
        "16000",
        "-",
    ]
    done = subprocess.run(command, input=signal.tobytes(), capture_output=True, check=True)
    theirs = np.frombuffer(done.stdout, np.float32)
    ours = _C.resample(signal, rate, 16000) if rate != 16000 else signal
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_impossible_rates() -> None:
    with pytest.raises(ValueError, match="the sample rate is 0 Hz, expected 1 to"):
        audio.load_audio(JFK, sr=0)
