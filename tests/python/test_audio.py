"""load_audio's errors and inputs, pad_or_trim, and the constants of the module."""

import io
import os
import struct
import subprocess
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import JFK, convert, needs_ffmpeg, raw_to_wav, rms_dbfs

import torchwhisper.audio as audio

CONSTANTS = [
    "SAMPLE_RATE", "N_FFT", "HOP_LENGTH", "CHUNK_LENGTH", "N_SAMPLES", "N_FRAMES", "N_SAMPLES_PER_TOKEN",
    "FRAMES_PER_SECOND", "TOKENS_PER_SECOND",
]  # fmt: skip


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants(name: str) -> None:
    whisper = pytest.importorskip("whisper")
    assert getattr(audio, name) == getattr(whisper.audio, name)
    assert type(getattr(audio, name)) is int


def test_the_bundled_recording(no_ffmpeg: None) -> None:
    samples = audio.load_audio(JFK)
    assert samples.dtype == np.float32
    assert samples.shape == (176_000,)
    assert samples.flags.writeable
    assert 0 < samples.std() < 1
    np.testing.assert_array_equal(samples * 32768, np.rint(samples * 32768))


def test_every_kind_of_input(no_ffmpeg: None) -> None:
    expected = audio.load_audio(JFK)
    encoded = JFK.read_bytes()
    with open(JFK, "rb") as file:
        for given_as in (
            str(JFK),
            encoded,
            bytearray(encoded),
            memoryview(encoded),
            io.BytesIO(encoded),
            file,
        ):
            np.testing.assert_array_equal(audio.load_audio(given_as), expected)


@pytest.mark.parametrize("wrong", [None, 7, np.zeros(3), io.StringIO("x")])
def test_other_inputs_are_a_type_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="expected"):
        audio.load_audio(wrong)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.wav", None, "there is no file"),
        ("empty.wav", b"", r"empty \(0 bytes\)"),
        ("notes.txt", b"just some words, no sound\n" * 40, "ffmpeg"),
        ("notes.wav", b"just some words, no sound\n" * 40, "ffmpeg"),
        ("notes.mp3", b"just some words, no sound\n" * 40, "ffmpeg"),
        ("photo.wav", b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(5000), "ffmpeg"),
        ("header.wav", b"RIFF\x24\x00\x00\x00WAVE", "ffmpeg"),
    ],
)
@pytest.mark.parametrize("with_ffmpeg", [True, False])
def test_bad_files_give_one_sentence(
    tmp_path: Path,
    name: str,
    content: bytes | None,
    reason: str,
    with_ffmpeg: bool,
    request: pytest.FixtureRequest,
) -> None:
    if not with_ffmpeg:
        request.getfixturevalue("no_ffmpeg")
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RuntimeError, match=f"Failed to load audio: .*{reason}") as caught:
        audio.load_audio(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Failed to load audio: .*directory"):
        audio.load_audio(tmp_path)


def test_bad_data() -> None:
    with pytest.raises(RuntimeError, match=r"Failed to load audio: the data: it is empty \(0 bytes\)"):
        audio.load_audio(b"")
    with pytest.raises(RuntimeError, match=r"Failed to load audio: .*ffmpeg"):
        audio.load_audio(b"just some words, no sound\n" * 40)


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.flac")
    try:
        Path(path).write_bytes(JFK.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names: they are not tested")
    assert len(audio.load_audio(path)) == 176_000
    Path(path).write_text("no sound")
    with pytest.raises(RuntimeError, match="Failed to load audio"):
        audio.load_audio(path)


def pcm_wav(path: Path, samples: bytes, promised: int) -> Path:
    """A WAV, 16 bit, mono, 16 kHz, whose header promises so many bytes."""
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    data = b"data" + struct.pack("<I", promised) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(fmt) + len(data)) + b"WAVE" + fmt + data)
    return path


def test_no_samples_give_an_empty_result(tmp_path: Path) -> None:
    empty_wav = pcm_wav(tmp_path / "a.wav", b"", 0)
    empty_flac = tmp_path / "a.flac"
    sizes = bytes.fromhex("10001000 000000 000000")
    rate_and_length = (44100 << 44 | 15 << 36).to_bytes(8, "big")  # mono, 16 bit, 0 samples
    empty_flac.write_bytes(b"fLaC" + b"\x80\x00\x00\x22" + sizes + rate_and_length + bytes(16))
    for path in (empty_wav, empty_flac):
        samples = audio.load_audio(path)
        assert samples.shape == (0,)
        assert samples.dtype == np.float32


def test_a_truncated_flac_gives_what_it_holds(tmp_path: Path, no_ffmpeg: None) -> None:
    whole = audio.load_audio(JFK)
    path = tmp_path / "cut.flac"
    path.write_bytes(JFK.read_bytes()[:600_000])
    with pytest.warns(
        UserWarning, match=r"cut.flac' may be incomplete: .* breaks off after .* s of 11.00 s"
    ) as seen:
        samples = audio.load_audio(path)
    assert 60_000 < len(samples) < 110_000
    np.testing.assert_array_equal(samples[:-50], whole[: len(samples) - 50])
    assert len(seen) == 1
    assert seen[0].filename == __file__


@needs_ffmpeg
def test_a_truncated_flac_follows_the_reference(tmp_path: Path) -> None:
    whisper = pytest.importorskip("whisper")
    path = tmp_path / "cut.flac"
    path.write_bytes(JFK.read_bytes()[:600_000])
    with pytest.warns(UserWarning):
        ours = audio.load_audio(path)
    theirs = whisper.load_audio(str(path))
    length = min(len(ours), len(theirs)) - 100
    assert length > 60_000
    assert rms_dbfs(ours[:length] - theirs[:length]) < -90


def twice(path: Path) -> Path:
    path.write_bytes(path.read_bytes() * 2)
    return path


def broken(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


LOUD_FIRST = "[0]lowpass=2000,aresample=44100[b];anoisesrc=d=5:a=0.9,aformat=channel_layouts=stereo[a];"
VARIABLE = ["-filter_complex", LOUD_FIRST + "[a][b]concat=v=0:a=1", "-q:a", 0, "-write_xing", 0]


def odd_file(kind: str, folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(-9000, 9000, 30_000, dtype=np.int16).tobytes()
    if kind == "WAV that says 0 bytes":
        return pcm_wav(folder / "a.wav", noise, 0)
    if kind == "WAV cut short":
        return pcm_wav(folder / "a.wav", noise, 90_000)
    if kind == "FLAC with an error inside":
        return broken(convert(JFK, folder / "a.flac", "-ar", 16000))
    if kind == "two MP3 files in one":
        return twice(convert(JFK, folder / "a.mp3"))
    if kind == "MP3 of variable bit rate without index":
        return convert(JFK, folder / "a.mp3", *VARIABLE)
    if kind == "MP3 cut short":
        return cut(convert(JFK, folder / "a.mp3"))
    if kind == "two OGG streams in one":
        return twice(convert(JFK, folder / "a.ogg", "-c:a", "libvorbis"))
    assert kind == "OGG cut short"
    return cut(convert(JFK, folder / "a.ogg", "-c:a", "libvorbis"))


# Whether a warning is due although ffmpeg is there.
ODD_FILES = {
    "WAV that says 0 bytes": False,
    "WAV cut short": True,
    "FLAC with an error inside": True,
    "two MP3 files in one": True,
    "MP3 of variable bit rate without index": False,
    "MP3 cut short": True,
    "two OGG streams in one": False,
    "OGG cut short": True,
}


@needs_ffmpeg
@pytest.mark.parametrize("kind", ODD_FILES)
def test_nothing_is_lost_where_libsndfile_stops_early(tmp_path: Path, kind: str) -> None:
    whisper = pytest.importorskip("whisper")
    path = odd_file(kind, tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ours = audio.load_audio(path)
    np.testing.assert_array_equal(ours, whisper.load_audio(str(path)))
    assert bool(seen) == ODD_FILES[kind], [str(warning.message) for warning in seen]


@needs_ffmpeg
@pytest.mark.parametrize("kind", ODD_FILES)
def test_without_ffmpeg_it_is_said(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = odd_file(kind, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for given_as in (path, path.read_bytes()):
        with pytest.warns(UserWarning, match="may be incomplete: "):
            samples = audio.load_audio(given_as)
        assert len(samples) > 16_000 or kind == "WAV that says 0 bytes"


@needs_ffmpeg
@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64"])
def test_whole_files_give_no_warning(tmp_path: Path, extension: str) -> None:
    codec = ["-c:a", "libvorbis"] if extension == "ogg" else []
    path = convert(JFK, tmp_path / f"a.{extension}", *codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio.load_audio(path)


def test_a_wav_of_unknown_length_is_whole(tmp_path: Path) -> None:
    path = pcm_wav(tmp_path / "a.wav", bytes(32_000), 0xFFFFFFFF)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audio.load_audio(path).shape == (16_000,)


@needs_ffmpeg
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    samples = np.zeros(3000, "<f4")
    samples[2345] = bad
    path = raw_to_wav(samples, tmp_path / "a.wav", 16000, "f32le")
    with pytest.raises(ValueError, match=f"Failed to load audio: .*sample 2345 is {bad}"):
        audio.load_audio(path)


FOR_FFMPEG = [
    ("opus", ["-c:a", "libopus", "-ac", 1], "Opus"),
    ("wav", ["-ac", 6], "6 channels"),
    ("flac", ["-ac", 3], "3 channels"),
    ("wav", ["-c:a", "adpcm_ima_wav"], "ADPCM"),
    ("m4a", ["-c:a", "aac"], "does not know"),
    ("mkv", ["-c:a", "flac"], "does not know"),
]


@needs_ffmpeg
@pytest.mark.parametrize(("extension", "options", "reason"), FOR_FFMPEG, ids=str)
def test_what_goes_through_ffmpeg(tmp_path: Path, extension: str, options: list, reason: str) -> None:
    whisper = pytest.importorskip("whisper")
    path = convert(JFK, tmp_path / f"a.{extension}", *options)
    expected = whisper.load_audio(str(path))
    np.testing.assert_array_equal(audio.load_audio(path), expected)
    np.testing.assert_array_equal(audio.load_audio(path.read_bytes()), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        for given_as in (path, path.read_bytes()):
            with pytest.raises(
                RuntimeError, match=f"{reason}.*install ffmpeg .*, or convert the audio to WAV"
            ):
                audio.load_audio(given_as)


@needs_ffmpeg
def test_an_unusual_order_of_channels_goes_through_ffmpeg(tmp_path: Path) -> None:
    whisper = pytest.importorskip("whisper")
    path = convert(
        JFK, tmp_path / "a.wav", "-af", "aformat=channel_layouts=stereo,channelmap=0-FC|1-LFE:FC+LFE"
    )
    np.testing.assert_array_equal(audio.load_audio(path), whisper.load_audio(str(path)))


@needs_ffmpeg
@pytest.mark.parametrize("name", ["http:x.m4a", "concat:a|b.m4a", "-x.m4a", "a%03d.m4a", "with space ü.m4a"])
def test_names_of_files_are_not_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).write_bytes(convert(JFK, tmp_path / "a.m4a").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert abs(len(audio.load_audio(name)) - 176_000) < 2000


@needs_ffmpeg
def test_urls_reach_ffmpeg(tmp_path: Path) -> None:
    path = convert(JFK, tmp_path / "a.wav", "-ar", 16000, "-ac", 1)
    for url in (f"file:{path}", f"concat:{path}"):
        np.testing.assert_array_equal(audio.load_audio(url), audio.load_audio(path))
    with pytest.raises(RuntimeError, match="is no file here, and ffmpeg cannot decode it: "):
        audio.load_audio("http://127.0.0.1:1/a.wav")


@needs_ffmpeg
def test_a_pipe_is_read_by_ffmpeg(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    wav = convert(JFK, tmp_path / "a.wav", "-ar", 16000, "-ac", 1)
    writer = threading.Thread(target=lambda: pipe.write_bytes(wav.read_bytes()))
    writer.start()
    np.testing.assert_array_equal(audio.load_audio(pipe), audio.load_audio(wav))
    writer.join()


@needs_ffmpeg
def test_videos_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=size=16x16:d=0.2", str(path)], check=True
    )
    with pytest.raises(RuntimeError, match=r"Failed to load audio: .*, and ffmpeg cannot decode it: "):
        audio.load_audio(path)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    axis=st.integers(-3, 2),
    length=st.integers(0, 9),
    as_tensor=st.booleans(),
)
def test_pad_or_trim(shape: list[int], axis: int, length: int, as_tensor: bool) -> None:
    whisper = pytest.importorskip("whisper")
    axis = axis % len(shape) if axis >= 0 else -(-axis % len(shape) or 1)
    array = np.random.default_rng(0).normal(size=shape)
    given_as = torch.from_numpy(array) if as_tensor else array
    ours = audio.pad_or_trim(given_as, length, axis=axis)
    assert type(ours) is type(given_as)
    np.testing.assert_array_equal(ours, whisper.pad_or_trim(given_as, length, axis=axis))


def test_pad_or_trim_to_thirty_seconds() -> None:
    assert audio.pad_or_trim(np.ones(100, np.float32)).shape == (480_000,)
    assert audio.pad_or_trim(torch.ones(500_000)).shape == (480_000,)
    whole = torch.ones(480_000)
    assert audio.pad_or_trim(whole) is whole
