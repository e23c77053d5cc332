"""Decoding: the same samples as openai-whisper gets from the ffmpeg program."""

from pathlib import Path

import numpy as np
import pytest
from sounds import JFK, convert, in_lsb, needs_ffmpeg, raw_to_wav

import torchwhisper.audio as audio

PCM = ["u8", "s16le", "s24le", "s32le", "f32le", "f64le", "alaw", "mulaw"]


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch):
    whisper = pytest.importorskip("whisper")
    # Whatever is compared here, ours must not have come from ffmpeg itself.
    monkeypatch.setattr(audio, "_run_ffmpeg", lambda *_: pytest.fail("ffmpeg was used"))
    return whisper.load_audio


@needs_ffmpeg
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", PCM)
def test_wav_equals_the_reference_bit_for_bit(
    reference, tmp_path: Path, encoding: str, channels: int
) -> None:
    options = ["-ar", 16000, "-ac", channels, "-c:a", f"pcm_{encoding}"]
    path = str(convert(JFK, tmp_path / "a.wav", *options))
    ours = audio.load_audio(path)
    assert ours.dtype == np.float32
    assert ours.std() > 0.01
    np.testing.assert_array_equal(ours, reference(path))


@needs_ffmpeg
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("fmt", "bits"), [("s16", 16), ("s32", 24)])
def test_flac_equals_the_reference_bit_for_bit(
    reference, tmp_path: Path, fmt: str, bits: int, channels: int
) -> None:
    options = ["-ar", 16000, "-ac", channels, "-sample_fmt", fmt, "-bits_per_raw_sample", bits]
    path = str(convert(JFK, tmp_path / "a.flac", *options))
    np.testing.assert_array_equal(audio.load_audio(path), reference(path))


@needs_ffmpeg
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("fmt", ["f32le", "f64le"])
def test_floats_round_to_even_and_saturate(reference, tmp_path: Path, fmt: str, channels: int) -> None:
    halves = (np.arange(-40, 40) + 0.5) / 32768
    edges = [1.0, -1.0, 0.99999, -0.99999, 1.5, -1.5, 0.0, 1e-30, 32767.5 / 32768, 32766.5 / 32768]
    samples = np.tile(np.concatenate([halves, edges]), 20).astype("<f4" if fmt == "f32le" else "<f8")
    path = str(raw_to_wav(samples.reshape(-1, channels), tmp_path / "a.wav", 16000, fmt))
    np.testing.assert_array_equal(audio.load_audio(path), reference(path))


@needs_ffmpeg
@pytest.mark.parametrize(
    "extremes", [[-32768, -32768], [32767, 32767], [-32768, 32767], [-1, 0], [-3, 2], [1, 0]]
)
def test_stereo_extremes(reference, tmp_path: Path, extremes: list[int]) -> None:
    path = str(raw_to_wav(np.array([extremes] * 500, "<i2"), tmp_path / "a.wav", 16000))
    np.testing.assert_array_equal(audio.load_audio(path), reference(path))


COMPRESSED = [
    ("mp3", ["-ac", 1, "-ar", 16000, "-b:a", "64k"]),
    ("mp3", ["-ac", 2, "-ar", 16000, "-b:a", "96k"]),
    ("mp3", ["-ac", 1, "-ar", 16000, "-q:a", 4]),
    ("mp3", ["-ac", 1, "-ar", 16000, "-write_xing", 0]),
    ("mp3", ["-ac", 1, "-ar", 16000, "-id3v2_version", 4, "-metadata", "title=x"]),
    ("mp3", ["-ac", 1, "-ar", 44100, "-b:a", "128k"]),
    ("mp3", ["-ac", 2, "-ar", 44100, "-b:a", "128k"]),
    ("mp3", ["-ac", 2, "-ar", 48000, "-q:a", 2]),
    ("ogg", ["-ac", 1, "-ar", 16000, "-c:a", "libvorbis"]),
    ("ogg", ["-ac", 2, "-ar", 16000, "-c:a", "libvorbis"]),
    ("ogg", ["-ac", 2, "-ar", 44100, "-c:a", "libvorbis", "-q:a", 6]),
    ("ogg", ["-ac", 1, "-ar", 8000, "-c:a", "libvorbis"]),
]


@needs_ffmpeg
@pytest.mark.parametrize(("extension", "options"), COMPRESSED, ids=str)
def test_mp3_and_vorbis_are_within_one_step(reference, tmp_path: Path, extension: str, options: list) -> None:
    path = str(convert(JFK, tmp_path / f"a.{extension}", "-map_metadata", -1, *options))
    ours, theirs = audio.load_audio(path), reference(path)
    assert ours.shape == theirs.shape
    assert np.abs(in_lsb(ours) - in_lsb(theirs)).max() <= 1
