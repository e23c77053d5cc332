"""Every file that a writer makes is compared with what the reference's writer makes of the same result."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
import whisper.utils as reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torchwhisper.utils as ours

# However busy the machine is.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FORMATS = ["txt", "vtt", "srt", "tsv", "json"]

times = st.one_of(st.floats(0, 40), st.integers(0, 40), st.floats(3590, 3610))
texts = st.text(st.sampled_from(' abcé한\t\n-->,."<u>'), max_size=12)
words = st.fixed_dictionaries({"word": texts, "start": times, "end": times, "probability": st.floats(0, 1)})
plain = st.fixed_dictionaries({"id": st.integers(0, 9), "start": times, "end": times, "text": texts})
worded = st.fixed_dictionaries(
    {"start": times, "end": times, "text": texts, "words": st.lists(words, max_size=8)}
)
results = st.one_of(st.lists(plain, max_size=4), st.lists(worded, max_size=4)).map(
    lambda segments: {"text": "".join(s["text"] for s in segments), "segments": segments, "language": "en"}
)
small = st.one_of(st.none(), st.integers(0, 12))
options = st.fixed_dictionaries(
    {},
    optional={
        "max_line_width": st.one_of(small, st.just(-1)),
        "max_line_count": small,
        "max_words_per_line": small,
        "highlight_words": st.booleans(),
    },
)


def files(get_writer, result, output_format, **kwargs):
    with tempfile.TemporaryDirectory() as folder:
        get_writer(output_format, folder)(result, "some/where/talk.en.flac", **kwargs)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@settings(RELAXED, max_examples=500)
@given(results, options)
def test_all_files_equal_the_reference(result, options):
    mine = files(ours.get_writer, result, "all", **options)
    assert mine == files(reference.get_writer, result, "all", **options)
    assert set(mine) == {f"talk.en.{extension}" for extension in FORMATS}


@settings(RELAXED, max_examples=200)
@given(results, options, options)
def test_the_older_way_of_passing_options(result, older, newer):
    for output_format in ("vtt", "srt"):
        mine = files(ours.get_writer, result, output_format, options=older, **newer)
        assert mine == files(reference.get_writer, result, output_format, options=older, **newer)


SENTENCE = "Ask not what your country can do for you, ask what you can do for your country."
speech = {
    "segments": [
        {
            "start": first,
            "end": first + 4.0,
            "text": "",
            "words": [
                {"word": " " + word, "start": first + i * 0.3, "end": first + i * 0.3 + 0.2}
                for i, word in enumerate(SENTENCE.split())
            ],
        }
        for first in (0.5, 6.0, 20.0)
    ]
}


@pytest.mark.parametrize("width", [None, 10, 40])
@pytest.mark.parametrize("lines", [None, 1, 2])
@pytest.mark.parametrize("count", [None, 1, 5])
@pytest.mark.parametrize("highlight", [False, True])
def test_subtitles_of_a_speech(width, lines, count, highlight):
    layout = dict(
        max_line_width=width, max_line_count=lines, max_words_per_line=count, highlight_words=highlight
    )
    for output_format in ("vtt", "srt"):
        mine = files(ours.get_writer, speech, output_format, **layout)
        assert mine == files(reference.get_writer, speech, output_format, **layout)


def test_lines_are_broken_at_the_width():
    (file,) = files(ours.get_writer, speech, "srt", max_line_width=20, max_line_count=2).values()
    assert file.decode().split("\n\n")[0] == (
        "1\n00:00:00,500 --> 00:00:02,800\nAsk not what your\ncountry can do for"
    )


@pytest.mark.parametrize("output_format", ["vtt", "srt"])
def test_an_emptied_first_segment_does_no_harm(output_format):
    # What transcribe() gives without word timestamps: only the emptied segment has "words".
    result = {
        "segments": [
            {"start": 0.0, "end": 0.0, "text": "", "words": []},
            {"start": 0.0, "end": 2.0, "text": " hello"},
        ]
    }
    with pytest.raises(KeyError):
        files(reference.get_writer, result, output_format)
    (file,) = files(ours.get_writer, result, output_format).values()
    assert b"hello" in file


def test_one_format():
    result = {"segments": [{"start": 0.0, "end": 2.0, "text": " hello"}], "text": " hello"}
    assert files(ours.get_writer, result, "txt") == {"talk.en.txt": b"hello\n"}
    with pytest.raises(KeyError):
        ours.get_writer("doc", ".")


def test_writers_can_be_derived():
    class Shout(ours.WriteTXT):
        extension = "loud"

        def write_result(self, result, file, options=None, **kwargs):
            print(result["text"].upper(), file=file)

    with tempfile.TemporaryDirectory() as folder:
        Shout(folder)({"text": "hello"}, "talk.flac")
        assert Path(folder, "talk.loud").read_text() == "HELLO\n"
    with pytest.raises(NotImplementedError):
        files(lambda _, folder: type("None", (ours.ResultWriter,), {"extension": "no"})(folder), {}, "no")


def test_a_negative_number_of_words_per_line_is_refused():
    with pytest.raises(ValueError, match="max_words_per_line is -1"):
        files(ours.get_writer, speech, "vtt", max_words_per_line=-1)


BROKEN = {"segments": [{"start": 0.0, "end": 1.0, "text": "fine"}, {"start": -1.0, "end": 1.0, "text": "?"}]}


@pytest.mark.parametrize("before", [None, "what was there"])
def test_nothing_half_written_is_left(tmp_path, before):
    target = tmp_path / "talk.srt"
    if before is not None:
        target.write_text(before)
    with pytest.raises(AssertionError):
        ours.get_writer("srt", str(tmp_path))(BROKEN, "talk.flac")
    assert [path.name for path in tmp_path.iterdir()] == ([] if before is None else ["talk.srt"])
    assert before is None or target.read_text() == before


def test_mode_and_links_of_an_existing_file_stay(tmp_path):
    target, link = tmp_path / "kept" / "old.txt", tmp_path / "talk.txt"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    ours.get_writer("txt", str(tmp_path))({"segments": []}, "talk.flac")
    assert link.is_symlink() and target.read_text() == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_new_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        ours.get_writer("txt", str(tmp_path))({"segments": []}, "talk.flac")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "talk.txt").stat().st_mode) == 0o640


def test_a_folder_that_takes_no_new_files(tmp_path, monkeypatch):
    """As the reference does, a file that is there is written into; a new one is missed by its own name."""
    old = tmp_path / "a.txt"
    old.write_text("old\n")

    def only_old_ones(path, mode="r", **kwargs):
        if "x" in mode or (mode == "w" and not os.path.exists(path)):
            raise PermissionError(13, "Permission denied", path)
        return open(path, mode, **kwargs)

    monkeypatch.setattr(ours, "open", only_old_ones, raising=False)
    write = ours.get_writer("txt", str(tmp_path))
    write(speech, "a.wav")
    assert old.read_text() != "old\n"
    with pytest.raises(PermissionError, match=r"b\.txt"):
        write(speech, "b.wav")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing/a\.txt"):
        ours.get_writer("txt", str(tmp_path / "missing"))(speech, "a.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_protected_file_is_not_replaced(tmp_path):
    target = tmp_path / "talk.txt"
    target.write_text("mine")
    target.chmod(0o400)
    with pytest.raises(PermissionError):
        ours.get_writer("txt", str(tmp_path))({"segments": []}, "talk.flac")
    assert target.read_text() == "mine"
