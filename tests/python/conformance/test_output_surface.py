"""Writers, helpers, sound files and the environment."""

import contextlib
import inspect
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from scripted import Answer, ScriptedModel

JFK = str(ROOT / "examples" / "jfk.flac")

PLAIN = {
    "text": " Hi --> there. Bye\tnow é",
    "language": "en",
    "segments": [
        {"start": 0.5, "end": 2.0, "text": " Hi --> there."},
        {"start": 3599.0, "end": 3661.25, "text": " Bye\tnow é"},
    ],
}


def word(text, start, end):
    return {"word": text, "start": start, "end": end, "probability": 0.9}


WORDED = {
    "text": " one two --> three",
    "language": "en",
    "segments": [
        {
            "start": 0.0,
            "end": 9.0,
            "text": " one two --> three",
            "words": [
                word(" one", 0.0, 0.5),
                word(" two", 1.0, 1.5),
                word(" -->", 1.5, 2.0),
                word(" three", 8.0, 9.0),
            ],
        }
    ],
}


@pytest.fixture
def write(package, tmp_path):
    def write(output_format, result, *args, **kwargs):
        package.utils.get_writer(output_format, str(tmp_path))(
            result, "some/where/talk.en.flac", *args, **kwargs
        )
        return {path.suffix[1:]: path.read_bytes().decode() for path in tmp_path.iterdir()}

    return write


class TestWriters:
    def test_txt(self, write):
        assert write("txt", PLAIN) == {"txt": "Hi --> there.\nBye\tnow é\n"}

    def test_vtt(self, write):
        assert write("vtt", PLAIN)["vtt"] == (
            "WEBVTT\n\n00:00.500 --> 00:02.000\nHi -> there.\n\n59:59.000 --> 01:01:01.250\nBye\tnow é\n\n"
        )

    def test_srt(self, write):
        assert write("srt", PLAIN)["srt"] == (
            "1\n00:00:00,500 --> 00:00:02,000\nHi -> there.\n\n"
            "2\n00:59:59,000 --> 01:01:01,250\nBye\tnow é\n\n"
        )

    def test_tsv(self, write):
        assert write("tsv", PLAIN)["tsv"] == (
            "start\tend\ttext\n500\t2000\tHi --> there.\n3599000\t3661250\tBye now é\n"
        )

    def test_json(self, write):
        found = write("json", PLAIN)["json"]
        assert found == json.dumps(PLAIN) and "\\u00e9" in found

    def test_all(self, write):
        assert set(write("all", PLAIN)) == {"txt", "vtt", "srt", "tsv", "json"}

    def test_an_unknown_format(self, write):
        with pytest.raises(KeyError):
            write("doc", PLAIN)

    def test_names_and_folders(self, package, write, tmp_path):
        write("txt", PLAIN)
        assert [path.name for path in tmp_path.iterdir()] == ["talk.en.txt"]

    def test_words_make_the_lines(self, write):
        """A pause of more than three seconds starts a cue; arrows stay as they are on this way."""
        assert write("srt", WORDED)["srt"] == ("1\n00:00:00,000 --> 00:00:09,000\none two --> three\n\n")
        assert write("srt", WORDED, max_line_width=20)["srt"] == (
            "1\n00:00:00,000 --> 00:00:09,000\none two --> three\n\n"
        )
        assert write("srt", WORDED, max_line_width=20, max_line_count=2)["srt"] == (
            "1\n00:00:00,000 --> 00:00:02,000\none two -->\n\n2\n00:00:08,000 --> 00:00:09,000\nthree\n\n"
        )

    def test_words_per_line(self, write):
        assert write("vtt", WORDED, max_words_per_line=2)["vtt"] == (
            "WEBVTT\n\n00:00.000 --> 00:01.500\none two\n\n00:01.500 --> 00:09.000\n--> three\n\n"
        )

    def test_highlighted_words_with_cues_for_the_gaps(self, write):
        found = write("vtt", WORDED, highlight_words=True)["vtt"]
        assert found.startswith(
            "WEBVTT\n\n00:00.000 --> 00:00.500\n<u>one</u> two --> three\n\n"
            "00:00.500 --> 00:01.000\none two --> three\n\n"
            "00:01.000 --> 00:01.500\none <u>two</u> --> three\n\n"
        )

    def test_the_older_way_of_passing_options(self, write):
        assert write("srt", WORDED, {"max_words_per_line": 1}) == write("srt", WORDED, max_words_per_line=1)

    def test_classes(self, package):
        u = package.utils
        assert [c.extension for c in (u.WriteTXT, u.WriteVTT, u.WriteSRT, u.WriteTSV, u.WriteJSON)] == [
            *("txt", "vtt", "srt", "tsv", "json")
        ]
        assert issubclass(u.WriteVTT, u.SubtitlesWriter) and issubclass(u.SubtitlesWriter, u.ResultWriter)
        assert (u.WriteVTT.always_include_hours, u.WriteVTT.decimal_marker) == (False, ".")
        assert (u.WriteSRT.always_include_hours, u.WriteSRT.decimal_marker) == (True, ",")
        assert isinstance(u.get_writer("vtt", "."), u.WriteVTT)
        assert u.get_writer("vtt", "out").output_dir == "out"


class TestHelpers:
    def test_format_timestamp(self, package):
        f = package.utils.format_timestamp
        assert [f(0.0), f(61.5), f(3661.0)] == ["00:00.000", "01:01.500", "01:01:01.000"]
        assert f(1.0, always_include_hours=True, decimal_marker=",") == "00:00:01,000"
        with pytest.raises(AssertionError, match="non-negative timestamp expected"):
            f(-0.1)

    def test_values_of_options(self, package):
        u = package.utils
        assert (u.str2bool("True"), u.str2bool("False")) == (True, False)
        with pytest.raises(ValueError):
            u.str2bool("true")
        assert (u.optional_int("None"), u.optional_int("3")) == (None, 3)
        assert (u.optional_float("None"), u.optional_float("0.5")) == (None, 0.5)

    def test_exact_div(self, package):
        assert package.utils.exact_div(6, 3) == 2
        with pytest.raises(AssertionError):
            package.utils.exact_div(7, 3)

    def test_compression_ratio_is_that_of_zlib(self, package):
        import zlib

        text = "ask not " * 20
        assert package.utils.compression_ratio(text) == 160 / len(zlib.compress(text.encode()))
        assert package.utils.zlib is zlib

    def test_make_safe(self, package):
        assert package.utils.system_encoding == "utf-8"
        assert package.utils.make_safe("où 다람쥐") == "où 다람쥐"

    def test_start_and_end(self, package):
        segments = WORDED["segments"]
        assert (package.utils.get_start(segments), package.utils.get_end(segments)) == (0.0, 9.0)
        assert (package.utils.get_start([]), package.utils.get_end([])) == (None, None)

    def test_start_and_end_without_words(self, package):
        """KeyError 'words' in the reference."""
        if package.is_reference:
            with pytest.raises(KeyError, match="words"):
                package.utils.get_end(PLAIN["segments"])
        else:
            assert package.utils.get_end(PLAIN["segments"]) == 3661.25


def test_text_that_the_terminal_cannot_show(package, monkeypatch):
    """make_safe() asks for the interpreter's encoding in the reference, which is always UTF-8."""
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    (token,) = package.tokenizer.get_tokenizer(True).encode(" für")
    model = ScriptedModel([Answer([token])])
    mel = torch.ones(2, 6000)
    monkeypatch.setattr(package.transcribe, "log_mel_spectrogram", lambda *_, **__: mel)
    with contextlib.redirect_stdout(ascii_only):
        if package.is_reference:
            with pytest.raises(UnicodeEncodeError):
                package.root.transcribe(model, "", language="de", fp16=False, verbose=True)
        else:
            result = package.root.transcribe(model, "", language="de", fp16=False, verbose=True)
            ascii_only.flush()
            assert result["text"] == " für"
            assert ascii_only.buffer.getvalue() == b"[00:00.000 --> 00:30.000]  f?r\n"


class TestAudio:
    def test_samples(self, package):
        samples = package.root.load_audio(JFK)
        assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples) == 176_000
        assert np.array_equal(samples * 32768, np.round(samples * 32768))
        assert len(package.root.load_audio(JFK, sr=8000)) == 88_000
        assert list(inspect.signature(package.root.load_audio).parameters) == ["file", "sr"]

    def test_a_url_goes_to_ffmpeg(self, package, tmp_path):
        assert len(package.root.load_audio(f"file:{JFK}")) == 176_000

    @pytest.mark.parametrize("content", [b"", b"no sound"])
    def test_a_file_that_is_no_sound(self, package, tmp_path, content):
        path = tmp_path / "talk.wav"
        path.write_bytes(content)
        with pytest.raises(RuntimeError, match="Failed to load audio: "):
            package.root.load_audio(str(path))

    def test_without_ffmpeg(self, package, tmp_path, monkeypatch):
        """The reference's most common question: FileNotFoundError of a file that is there."""
        m4a = tmp_path / "talk.m4a"
        subprocess.run(["ffmpeg", "-loglevel", "error", "-i", JFK, "-c:a", "aac", m4a], check=True)
        monkeypatch.setenv("PATH", str(tmp_path))
        if package.is_reference:
            with pytest.raises(FileNotFoundError, match="ffmpeg"):
                package.root.load_audio(str(m4a))
        else:
            with pytest.raises(
                RuntimeError, match=r"Failed to load audio: .*the ffmpeg program is not installed"
            ):
                package.root.load_audio(str(m4a))
            assert len(package.root.load_audio(JFK)) == 176_000

    def test_ffmpeg_is_started_by_a_name_that_can_be_replaced(self, package, monkeypatch):
        """Programs without a console window replace `whisper.audio.run`."""
        commands, run = [], package.audio.run
        monkeypatch.setattr(
            package.audio, "run", lambda command, **kw: commands.append(command) or run(command, **kw)
        )
        package.root.load_audio(f"file:{JFK}")
        assert len(commands) == 1 and os.path.basename(commands[0][0]) == "ffmpeg"
        assert {"-nostdin", "s16le", "pcm_s16le", "16000", "1"} <= set(commands[0])

    def test_pad_or_trim(self, package):
        for array in (np.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3)):
            padded, cut = package.root.pad_or_trim(array, 4), package.root.pad_or_trim(array, 1, axis=0)
            assert type(padded) is type(array)
            assert padded.tolist() == [[0, 1, 2, 0], [3, 4, 5, 0]] and cut.tolist() == [[0, 1, 2]]
        assert package.root.pad_or_trim(np.zeros(3)).shape == (480_000,)

    def test_spectrogram(self, package):
        mel = package.root.log_mel_spectrogram(JFK)
        assert mel.shape == (80, 1100) and mel.dtype == torch.float32
        assert mel.max() - mel.min() <= 2.0
        assert package.root.log_mel_spectrogram(JFK, n_mels=128, padding=480_000).shape == (128, 4100)
        samples = package.root.load_audio(JFK)
        assert torch.allclose(package.root.log_mel_spectrogram(torch.from_numpy(samples)), mel)
        assert package.root.log_mel_spectrogram(np.stack([samples, samples])).shape == (2, 80, 1100)

    def test_the_floor_is_that_of_the_whole_batch(self, package):
        loud = package.root.load_audio(JFK)
        both = package.root.log_mel_spectrogram(np.stack([loud, loud * 1e-6]))
        alone = package.root.log_mel_spectrogram(loud * np.float32(1e-6))
        assert both[1].min() > alone.min() + 0.5

    def test_filters(self, package):
        filters = package.audio.mel_filters("cpu", 80)
        assert filters.shape == (80, 201) and package.audio.mel_filters("cpu", 80) is filters
        with pytest.raises(AssertionError, match="Unsupported n_mels: 100"):
            package.audio.mel_filters("cpu", 100)


def test_data_files_lie_beside_the_modules(package):
    folder = os.path.dirname(package.root.__file__)
    with np.load(os.path.join(folder, "assets", "mel_filters.npz")) as filters:
        assert sorted(filters) == ["mel_128", "mel_80"]
    for name in ("assets/gpt2.tiktoken", "assets/multilingual.tiktoken", "normalizers/english.json"):
        assert os.path.getsize(os.path.join(folder, name)) > 10_000


@pytest.mark.parametrize(
    ("environment", "folder"),
    [({"XDG_CACHE_HOME": "/x"}, "/x/whisper"), ({"HOME": "/h"}, "/h/.cache/whisper")],
)
def test_where_models_are_kept(package, monkeypatch, environment, folder):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = []

    class Stop(Exception):
        pass

    def download(url, root, in_memory):
        asked.append((root, in_memory))
        raise Stop

    monkeypatch.setattr(package.root, "_download", download)
    with pytest.raises(Stop):
        package.root.load_model("tiny", device="cpu")
    with pytest.raises(Stop):
        package.root.load_model("tiny", device="cpu", download_root="/mine", in_memory=True)
    assert asked == [(folder, False), ("/mine", True)]


def test_threads_of_the_environment(package):
    code = f"import {package.name}, torch; print(torch.get_num_threads())"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


class TestNormalizers:
    def test_english(self, package):
        import importlib

        normalizers = importlib.import_module(f"{package.name}.normalizers")
        normalize = normalizers.EnglishTextNormalizer()
        assert normalize("Mr. O'Neill's colour cost $20 million, didn't it?") == (
            "mister 0 neill is color cost $20000000 did not it"
        )
        assert len(normalize.standardize_spellings.mapping) == 1739
        assert normalize.standardize_numbers("double oh seven") == "007"

    def test_basic(self, package):
        import importlib

        normalizers = importlib.import_module(f"{package.name}.normalizers")
        assert normalizers.BasicTextNormalizer(True, True)("Où-là [noise] (x) ok!") == "o u l a o k "
