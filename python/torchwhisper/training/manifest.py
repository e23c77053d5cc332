"""The list of recordings to train on: one JSON object per line."""

import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .. import _C
from ..audio import SAMPLE_RATE, Samples, load_audio
from ..tokenizer import LANGUAGES, TO_LANGUAGE_CODE

TASKS = ("transcribe", "translate")


class ManifestError(ValueError):
    """Names the manifest, the line and what is wrong with it."""


@dataclass(frozen=True)
class Utterance:
    """A recording, or a part of one, with what is said in it.

    audio: path; relative ones start at the folder of the manifest.
    text: what the model is to write.
    start, end: the part of the recording, in seconds; the whole where they are None.
    language: a code such as "en"; None for a model of English only.
    segments: (start, end, text) in seconds after `start`, for training with timestamps.
    previous: the text before it, for training with prompts.
    where: manifest and line, for messages.
    """

    audio: str
    text: str
    start: float | None = None
    end: float | None = None
    language: str | None = None
    task: str = "transcribe"
    segments: tuple[tuple[float, float, str], ...] = ()
    previous: str | None = None
    where: str = ""

    def load(self) -> Samples:
        """Its samples at 16 kHz. Raises ManifestError where the recording cannot be read."""
        try:
            samples = load_audio(self.audio)
        except (OSError, RuntimeError, ValueError) as error:
            raise ManifestError(f"{self.where}: cannot read {self.audio}: {error}") from None
        start = round((self.start or 0) * SAMPLE_RATE)
        end = len(samples) if self.end is None else round(self.end * SAMPLE_RATE)
        # A header may round the length of a recording.
        if start >= len(samples) or end > len(samples) + SAMPLE_RATE // 10:
            raise _too_short(self, len(samples) / SAMPLE_RATE)
        return samples[start:end]


_KEYS = {
    "audio": str,
    "text": str,
    "start": float,
    "end": float,
    "language": str,
    "task": str,
    "timestamps": list,
    "previous": str,
}
_KINDS = {str: "a string", float: "a number", list: "a list"}


def read_manifest(path: str, language: str | None = None) -> list[Utterance]:
    """Reads a manifest: lines of JSON objects with the keys

    - audio, text: needed; `audio` is a path, relative to the folder of the manifest if it is not absolute;
    - start, end: seconds, where the utterance is a part of the recording;
    - language: a code or an English name (default: `language`); task: transcribe or translate;
    - timestamps: a list of [start, end, text], seconds after `start`, whose texts make up `text`;
    - previous: the text before the utterance.

    Empty lines are skipped. Recordings are not opened here, see `check_audio`.

    Raises:
        ManifestError: naming the line, for whatever is wrong; OSError where the file cannot be read.
    """
    if language is not None:
        _language(language, "language")
    try:
        with open(path, encoding="utf-8-sig") as file:
            # Not splitlines(), which splits at characters that a JSON string may have in it.
            lines = file.read().split("\n")
    except UnicodeDecodeError as error:
        number = 1 + error.object.count(b"\n", 0, error.start)
        raise ManifestError(f"{path}, line {number}: not UTF-8") from None
    utterances = [
        _utterance(line, f"{path}, line {number}", os.path.dirname(os.path.abspath(path)), language)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not utterances:
        raise ManifestError(f"{path} has no utterances, expected a JSON object in every line")
    return utterances


def _utterance(line: str, where: str, folder: str, language: str | None) -> Utterance:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # numbers or lists of absurd size
        raise ManifestError(f"{where}: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ManifestError(f"{where}: got {type(given).__name__}, expected an object {{...}}")
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise ManifestError(f"{where}: unknown key {key!r}, expected {', '.join(_KEYS)}")
        number = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, kind) or number) or (kind is float and not _is_finite(value)):
            raise ManifestError(f"{where}: {key} is {value!r}, expected {_KINDS[kind]}")
    for key in ("audio", "text"):
        if not given.get(key, "").strip() and (key == "audio" or key not in given):
            raise ManifestError(f"{where}: no {key!r}")
    start, end = given.get("start"), given.get("end")
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ManifestError(f"{where}: start is {start} and end {end}, expected 0 <= start < end")
    if given.get("task", "transcribe") not in TASKS:
        raise ManifestError(f"{where}: task is {given['task']!r}, expected one of {', '.join(TASKS)}")
    return Utterance(
        audio=os.path.join(folder, given["audio"]),
        text=given["text"].strip(),
        start=start,
        end=end,
        language=_language(given.get("language", language), where),
        task=given.get("task", "transcribe"),
        segments=tuple(_segments(given.get("timestamps", []), where)),
        previous=given.get("previous"),
        where=where,
    )


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False


def _language(name: str | None, where: str) -> str | None:
    if name is None:
        return None
    code = TO_LANGUAGE_CODE.get(name.lower(), name.lower())
    if code not in LANGUAGES:
        raise ManifestError(f"{where}: unknown language {name!r}, expected a code such as 'en'")
    return code


def _segments(given: list[Any], where: str) -> Iterator[tuple[float, float, str]]:
    for item in given:
        match item:
            case [int() | float() as start, int() | float() as end, str() as text] if 0 <= start <= end:
                yield float(start), float(end), text.strip()
            case _:
                raise ManifestError(
                    f"{where}: timestamps has {item!r}, expected [start, end, text] with 0 <= start <= end"
                )
    for (_, end, _), (start, _, _) in pairwise(given):
        if start < end:
            raise ManifestError(f"{where}: timestamps has a segment that starts at {start}, before {end}")


def check_audio(utterances: list[Utterance], longest: float, workers: int = 4) -> list[float]:
    """Seconds of every utterance, after a look at each file.

    Args:
        longest: seconds that a window of the model holds.

    Raises:
        ManifestError: for the first utterance whose recording cannot be read, ends before it, or is too long.
    """
    files = sorted({utterance.audio for utterance in utterances})
    first = {utterance.audio: utterance for utterance in reversed(utterances)}

    def length(path: str) -> float | ManifestError:
        try:
            return _seconds(path)
        except (OSError, RuntimeError, ValueError) as error:
            return ManifestError(f"{first[path].where}: cannot read {path}: {error}")

    with ThreadPoolExecutor(workers) as pool:
        lengths = dict(zip(files, pool.map(length, files), strict=True))
    return [_checked_seconds(utterance, lengths[utterance.audio], longest) for utterance in utterances]


def _seconds(path: str) -> float:
    """The length of a recording by its header, or by decoding it where that tells nothing."""
    try:
        seconds = _C.audio_seconds(os.fsencode(path))
    except _C.UnsupportedSound:
        seconds = -1.0
    return seconds if seconds >= 0 else len(load_audio(path)) / SAMPLE_RATE


def _checked_seconds(utterance: Utterance, length: float | ManifestError, longest: float) -> float:
    if isinstance(length, ManifestError):
        raise length
    start = utterance.start or 0
    if start >= length or (utterance.end or 0) > length + 0.1:
        raise _too_short(utterance, length)
    seconds = (length if utterance.end is None else utterance.end) - start
    if seconds > longest + 1e-3:
        raise ManifestError(
            f"{utterance.where}: the utterance lasts {seconds:.2f} s, a window of the model {longest:g} s; "
            "cut it by start and end"
        )
    if utterance.segments and utterance.segments[-1][1] > seconds + 0.1:
        raise ManifestError(
            f"{utterance.where}: timestamps end at {utterance.segments[-1][1]} s, the utterance at "
            f"{seconds:.2f} s"
        )
    return seconds


def _too_short(utterance: Utterance, length: float) -> ManifestError:
    says = f"{utterance.where}: the recording {utterance.audio} lasts {length:.2f} s"
    limits = {"start": utterance.start, "end": utterance.end}
    asked = " and ".join(f"{name} {value:g}" for name, value in limits.items() if value is not None)
    return ManifestError(f"{says}, the line asks for {asked}" if asked else f"{says}, expected some sound")
