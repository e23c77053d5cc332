"""Manifests: what is read, and the sentence for each mistake."""

import json

import pytest
from corpus import write_wav

from torchwhisper.training import ManifestError, Utterance, check_audio, read_manifest


def write(tmp_path, *lines):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


@pytest.fixture
def tone(tmp_path):
    """One second."""
    return write_wav(tmp_path / "tone.wav", 1.0)


def test_everything_that_a_line_may_say(tmp_path):
    path = write(
        tmp_path,
        {
            "audio": "a.wav", "text": " hello there ", "start": 1, "end": 2.5, "language": "German",
            "task": "translate", "timestamps": [[0, 0.5, "hello"], [0.5, 1.2, "there"]], "previous": "So,",
        },
        "",
        {"audio": "/elsewhere/b.wav", "text": ""},
    )  # fmt: skip
    first, second = read_manifest(path, language="en")
    assert first == Utterance(
        audio=str(tmp_path / "a.wav"), text="hello there", start=1, end=2.5, language="de", task="translate",
        segments=((0.0, 0.5, "hello"), (0.5, 1.2, "there")), previous="So,", where=f"{path}, line 1",
    )  # fmt: skip
    assert (second.audio, second.text, second.language) == ("/elsewhere/b.wav", "", "en")
    assert second.where == f"{path}, line 3"


GOOD = {"audio": "a.wav", "text": "hello"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ([1], r"line 2: got list, expected an object"),
        ({"audio": "a.wav"}, "line 2: no 'text'"),
        ({"text": "hello"}, "line 2: no 'audio'"),
        ({"audio": " ", "text": "hello"}, "line 2: no 'audio'"),
        (GOOD | {"speaker": "x"}, "line 2: unknown key 'speaker'"),
        (GOOD | {"text": 3}, "line 2: text is 3, expected a string"),
        (GOOD | {"start": "1"}, "line 2: start is '1', expected a number"),
        (GOOD | {"start": True}, "line 2: start is True, expected a number"),
        (GOOD | {"start": -1}, "line 2: start is -1"),
        (GOOD | {"start": float("nan")}, "line 2: start is nan, expected a number"),
        (GOOD | {"end": float("inf")}, "line 2: end is inf, expected a number"),
        (GOOD | {"end": 10**400}, "line 2: end is 1000.*, expected a number"),
        ("[" * 100_000, "line 2: not JSON: maximum recursion"),
        ("1" * 5000, "line 2: not JSON"),
        (GOOD | {"start": 2, "end": 2}, "line 2: start is 2 and end 2"),
        (GOOD | {"language": "klingon"}, "line 2: unknown language 'klingon'"),
        (GOOD | {"task": "sing"}, "line 2: task is 'sing'"),
        (GOOD | {"timestamps": [[1, 0.5, "a"]]}, r"line 2: timestamps has \[1, 0.5, 'a'\]"),
        (GOOD | {"timestamps": [[0, 2, "a"], [1, 3, "b"]]}, "line 2: .* a segment that starts at 1"),
        (GOOD | {"timestamps": ["a"]}, "line 2: timestamps has 'a'"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path, line, said):
    with pytest.raises(ManifestError, match=said):
        read_manifest(write(tmp_path, GOOD, line))


def test_what_editors_and_programs_leave_in_a_file(tmp_path):
    """A byte order mark, Windows' ends of lines, and separators inside of strings."""
    path = tmp_path / "train.jsonl"
    texts = ["größe", "one\u2028two", "one\x85two"]
    lines = [json.dumps(GOOD | {"text": text}, ensure_ascii=False) for text in texts]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert [utterance.text for utterance in read_manifest(str(path))] == texts


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_named(tmp_path, encoding):
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + "größe".encode(encoding))
    with pytest.raises(ManifestError, match=r"train.jsonl, line 2: not UTF-8"):
        read_manifest(str(path))


def test_an_unknown_default_language_is_no_mistake_of_a_line(tmp_path):
    with pytest.raises(ManifestError, match=r"^language: unknown language 'klingon'"):
        read_manifest(write(tmp_path, GOOD | {"language": "en"}), language="klingon")


def test_an_empty_manifest_is_a_mistake(tmp_path):
    with pytest.raises(ManifestError, match="has no utterances"):
        read_manifest(write(tmp_path, ""))


def test_lengths_are_read_from_the_headers(tmp_path, tone):
    line = {"audio": "tone.wav", "text": "a"}
    path = write(tmp_path, line, line | {"start": 0.25})
    utterances = read_manifest(path)
    assert check_audio(utterances, longest=30) == [1.0, 0.75]
    assert [len(utterance.load()) for utterance in utterances] == [16000, 12000]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"audio": "absent.wav", "text": "a"}, "line 2: .*absent.wav"),
        ({"audio": "train.jsonl", "text": "a"}, "line 2: .*train.jsonl"),
        (
            {"audio": "tone.wav", "text": "a", "start": 1.5},
            "line 2: .* lasts 1.00 s, the line asks for start 1.5",
        ),
        (
            {"audio": "tone.wav", "text": "a", "end": 1.5},
            "line 2: .* lasts 1.00 s, the line asks for end 1.5",
        ),
        ({"audio": "nothing.wav", "text": "a"}, "line 2: .* lasts 0.00 s, expected some sound"),
        ({"audio": "tone.wav", "text": "a", "timestamps": [[0, 3, "a"]]}, "line 2: timestamps end at 3.0 s"),
    ],
)
def test_bad_audio_is_named_with_its_line(tmp_path, tone, line, said):
    write_wav(tmp_path / "nothing.wav", 0)
    utterances = read_manifest(write(tmp_path, {"audio": "tone.wav", "text": "a"}, line))
    with pytest.raises(ManifestError, match=said):
        check_audio(utterances, longest=30)


def test_an_utterance_longer_than_a_window(tmp_path, tone):
    line = {"audio": "tone.wav", "text": "a"}
    with pytest.raises(ManifestError, match=r"line 1: the utterance lasts 1.00 s, a window .* 0.5 s"):
        check_audio(read_manifest(write(tmp_path, line)), longest=0.5)
    assert check_audio(read_manifest(write(tmp_path, line | {"end": 0.5})), longest=0.5) == [0.5]
