"""Small helpers and the transcript writers (txt, vtt, srt, tsv, json).

Names, options and file contents follow openai-whisper's `whisper/utils.py`.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any, List, Optional, TextIO  # noqa: F401, UP035

system_encoding = sys.getdefaultencoding()

Segment = dict[str, Any]
Word = dict[str, Any]
Cue = tuple[str, str, str]

_LONG_PAUSE = 3.0  # seconds
_UNLIMITED = 1000
_FIRST_LINE = re.compile(r"^(\s*)(.*)$")


def make_safe(string: str) -> str:
    """`string` with what the terminal's encoding cannot write replaced by "?"."""
    encoding = getattr(sys.stdout, "encoding", None) or system_encoding
    return string.encode(encoding, errors="replace").decode(encoding)


def exact_div(x: int, y: int) -> int:
    """x / y; AssertionError where that is not whole."""
    assert x % y == 0
    return x // y


def str2bool(string: str) -> bool:
    """ "True" or "False"; ValueError for anything else."""
    values = {"True": True, "False": False}
    if string not in values:
        raise ValueError(f"Expected one of {set(values)}, got {string}")
    return values[string]


def optional_int(string: str) -> int | None:
    """An integer or "None"."""
    return None if string == "None" else int(string)


def optional_float(string: str) -> float | None:
    """A number or "None"."""
    return None if string == "None" else float(string)


def compression_ratio(text: str) -> float:
    """Bytes of `text` per byte of its zlib compression: high for repetitions."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw))


def format_timestamp(seconds: float, always_include_hours: bool = False, decimal_marker: str = ".") -> str:
    """[HH:]MM:SS.mmm, rounded to milliseconds; AssertionError for a negative time."""
    assert seconds >= 0, "non-negative timestamp expected"
    whole, milliseconds = divmod(round(seconds * 1000.0), 1000)
    whole, second = divmod(whole, 60)
    hour, minute = divmod(whole, 60)
    hours = f"{hour:02d}:" if always_include_hours or hour > 0 else ""
    return f"{hours}{minute:02d}:{second:02d}{decimal_marker}{milliseconds:03d}"


def get_start(segments: list[Segment]) -> float | None:
    """Start of the first word, else of the first segment, in seconds; None for no segments."""
    words = (word for segment in segments for word in segment.get("words", ()))
    first = next(words, segments[0] if segments else {})
    return first.get("start")


def get_end(segments: list[Segment]) -> float | None:
    """End of the last word, else of the last segment, in seconds; None for no segments."""
    words = (word for segment in reversed(segments) for word in reversed(segment.get("words", ())))
    last = next(words, segments[-1] if segments else {})
    return last.get("end")


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when it is complete, and leaves nothing when it fails."""
    path = os.path.realpath(path)
    exists = os.path.exists(path)
    unfinished = None if exists and not os.path.isfile(path) else _file_beside(path)
    if unfinished is None:
        with open(path, "w", encoding="utf-8") as file:
            yield file
        return
    try:
        if exists:
            open(path, "r+b").close()  # a file that must not be written must not be replaced either
        with open(unfinished, "w", encoding="utf-8") as file:
            yield file
        if exists:
            shutil.copymode(path, unfinished)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def _file_beside(path: str) -> str | None:
    """A new file in the folder of `path`; None where the folder takes none, though it may hold `path`."""
    name = os.path.join(os.path.dirname(path), f".torchwhisper-{uuid.uuid4().hex}")
    try:
        open(name, "xb").close()
    except OSError as error:
        if os.path.exists(path) and not isinstance(error, PermissionError):
            raise
        return None
    return name


class ResultWriter:
    """Writes a transcript to `<output_dir>/<audio's name>.<extension>`, as a whole or not at all."""

    extension: str

    def __init__(self, output_dir: str) -> None:
        self.output_dir = output_dir

    def __call__(
        self, result: dict[str, Any], audio_path: str, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        stem = os.path.splitext(os.path.basename(audio_path))[0]
        with _replacing(os.path.join(self.output_dir, f"{stem}.{self.extension}")) as file:
            self.write_result(result, file=file, options=options, **kwargs)

    def write_result(
        self, result: dict[str, Any], file: TextIO, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        raise NotImplementedError


class WriteTXT(ResultWriter):
    """One line of text per segment."""

    extension = "txt"

    def write_result(
        self, result: dict[str, Any], file: TextIO, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        for segment in result["segments"]:
            print(segment["text"].strip(), file=file, flush=True)


class _Layout:
    """Breaks words into lines and lines into subtitles.

    With both `line_count` and `line_width` given, subtitles may span segments and break at pauses; otherwise
    every segment, and every `words_per_line` words of it, starts a subtitle.
    """

    def __init__(self, line_width: int | None, line_count: int | None, words_per_line: int | None) -> None:
        self.keep_segments = line_count is None or line_width is None
        self.line_width = line_width or _UNLIMITED
        self.line_count = line_count
        self.words_per_line = words_per_line or _UNLIMITED
        if self.words_per_line < 0:
            raise ValueError(f"max_words_per_line is {words_per_line}, expected a positive number")

    def _timings(self, segments: list[Segment]) -> Iterator[tuple[Word, bool]]:
        """Copies of the words, each with whether it starts a chunk."""
        for segment in segments:
            for i, word in enumerate(segment["words"]):
                yield word.copy(), i % self.words_per_line == 0

    def subtitles(self, segments: list[Segment]) -> Iterator[list[Word]]:
        subtitle: list[Word] = []
        width = 0
        lines = 1
        last = get_start(segments) or 0.0
        for timing, starts_chunk in self._timings(segments):
            pause = not self.keep_segments and timing["start"] - last > _LONG_PAUSE
            starts_subtitle = self.keep_segments and starts_chunk and bool(subtitle)
            fits = width + len(timing["word"]) <= self.line_width
            if width > 0 and fits and not pause and not starts_subtitle:
                width += len(timing["word"])
            else:
                full = self.line_count is not None and (pause or lines >= self.line_count)
                timing["word"] = text = timing["word"].strip()
                if starts_subtitle or (subtitle and full):
                    yield subtitle
                    subtitle = []
                    lines = 1
                elif width > 0:
                    timing["word"] = "\n" + text
                    lines += 1
                width = len(text)
            subtitle.append(timing)
            last = timing["start"]
        if subtitle:
            yield subtitle


class SubtitlesWriter(ResultWriter):
    """What WebVTT and SubRip have in common: cues of (start, end, text)."""

    always_include_hours: bool
    decimal_marker: str

    def iterate_result(
        self,
        result: dict[str, Any],
        options: dict[str, Any] | None = None,
        *,
        max_line_width: int | None = None,
        max_line_count: int | None = None,
        highlight_words: bool = False,
        max_words_per_line: int | None = None,
    ) -> Iterator[Cue]:
        """Cues with formatted times. `options` is an older way to pass the keywords, which win over it.

        The keywords act only where every segment has "words".
        """
        segments: list[Segment] = result["segments"]
        # transcribe() gives "words" to a segment that it empties, whether words were asked for or not.
        if not all("words" in segment for segment in segments):
            for segment in segments:
                text = segment["text"].strip().replace("-->", "->")
                yield *self._times(segment, segment), text
            return
        options = options or {}
        layout = _Layout(
            max_line_width or options.get("max_line_width"),
            max_line_count or options.get("max_line_count"),
            max_words_per_line or options.get("max_words_per_line"),
        )
        highlight = highlight_words or options.get("highlight_words", False)
        for subtitle in layout.subtitles(segments):
            if highlight:
                yield from self._highlighted(subtitle)
            else:
                yield *self._times(subtitle[0], subtitle[-1]), "".join(word["word"] for word in subtitle)

    def _times(self, first: dict[str, Any], last: dict[str, Any]) -> tuple[str, str]:
        return self.format_timestamp(first["start"]), self.format_timestamp(last["end"])

    def _highlighted(self, subtitle: list[Word]) -> Iterator[Cue]:
        """One cue per word with that word underlined, and a plain one for every gap between words."""
        texts = [word["word"] for word in subtitle]
        shown_until = self.format_timestamp(subtitle[0]["start"])
        for i, word in enumerate(subtitle):
            start, end = self._times(word, word)
            if shown_until != start:
                yield shown_until, start, "".join(texts)
            marked = _FIRST_LINE.sub(r"\1<u>\2</u>", texts[i])
            yield start, end, "".join([*texts[:i], marked, *texts[i + 1 :]])
            shown_until = end

    def format_timestamp(self, seconds: float) -> str:
        return format_timestamp(
            seconds, always_include_hours=self.always_include_hours, decimal_marker=self.decimal_marker
        )


class WriteVTT(SubtitlesWriter):
    """WebVTT."""

    extension = "vtt"
    always_include_hours = False
    decimal_marker = "."

    def write_result(
        self, result: dict[str, Any], file: TextIO, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        print("WEBVTT\n", file=file)
        for start, end, text in self.iterate_result(result, options, **kwargs):
            print(f"{start} --> {end}\n{text}\n", file=file, flush=True)


class WriteSRT(SubtitlesWriter):
    """SubRip."""

    extension = "srt"
    always_include_hours = True
    decimal_marker = ","

    def write_result(
        self, result: dict[str, Any], file: TextIO, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        for i, (start, end, text) in enumerate(self.iterate_result(result, options, **kwargs), start=1):
            print(f"{i}\n{start} --> {end}\n{text}\n", file=file, flush=True)


class WriteTSV(ResultWriter):
    """Tab-separated start, end (whole milliseconds, so no locale's decimal mark can creep in) and text."""

    extension = "tsv"

    def write_result(
        self, result: dict[str, Any], file: TextIO, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        print("start", "end", "text", sep="\t", file=file)
        for segment in result["segments"]:
            start, end = (round(1000 * segment[key]) for key in ("start", "end"))
            text = segment["text"].strip().replace("\t", " ")
            print(start, end, text, sep="\t", file=file, flush=True)


class WriteJSON(ResultWriter):
    """The result as it is."""

    extension = "json"

    def write_result(
        self, result: dict[str, Any], file: TextIO, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        json.dump(result, file)


def get_writer(output_format: str, output_dir: str) -> Callable[..., None]:
    """A callable `(result, audio_path, options=None, **options)` that writes `output_format`.

    output_format: "txt", "vtt", "srt", "tsv", "json" or "all" of them; KeyError for another.
    output_dir: an existing folder.
    Source: `whisper.utils.get_writer`.
    """
    writers: dict[str, type[ResultWriter]] = {
        "txt": WriteTXT,
        "vtt": WriteVTT,
        "srt": WriteSRT,
        "tsv": WriteTSV,
        "json": WriteJSON,
    }
    if output_format != "all":
        return writers[output_format](output_dir)

    everything = [writer(output_dir) for writer in writers.values()]

    def write_all(
        result: dict[str, Any], file: str, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        for writer in everything:
            writer(result, file, options, **kwargs)

    return write_all
