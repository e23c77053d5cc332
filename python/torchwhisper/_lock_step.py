"""Advances several transcriptions together, so that their windows can be decoded as one batch.

A transcription is a generator, a *stream*: it yields what it wants decoded and is sent the results. Streams
that are advanced in lock step are a stream again, which asks for what all of them want at once.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from .decoding import DecodingOptions, DecodingResult

_T = TypeVar("_T")


@dataclass(frozen=True)
class Attempt:
    """A window that is to be decoded: its log-mel or its audio features, and how."""

    audio: Tensor
    options: DecodingOptions


Answer = DecodingResult | Exception
Stream = Generator[list[Attempt], list[Answer], _T]


class _Open(NamedTuple):
    stream: Stream[Any]
    wanted: list[Attempt]


def never(wanted: list[Attempt]) -> bool:
    """For streams that do not wait for each other."""
    return False


def in_lock_step(
    streams: Iterable[Stream[_T]],
    at_once: int,
    done: Callable[[int, _T | Exception], None],
    waits: Callable[[list[Attempt]], bool] = never,
) -> Stream[None]:
    """Advances streams together.

    Args:
        streams: opened one after the other, so that no more than `at_once` are open.
        done: told the number of a stream that has ended, and what it returned or raised.
        waits: whether a wish may only be granted when all streams before its own have ended.
    """
    waiting: Iterator[tuple[int, Stream[_T]]] = enumerate(streams)
    running: dict[int, _Open] = {}

    def advance(number: int, stream: Stream[_T], answers: list[Answer] | None) -> None:
        running.pop(number, None)
        try:
            wanted = next(stream) if answers is None else stream.send(answers)
        except StopIteration as end:
            done(number, end.value)
        except Exception as error:
            done(number, error)
        else:
            running[number] = _Open(stream, wanted)

    try:
        while True:
            while len(running) < at_once and (following := next(waiting, None)) is not None:
                advance(*following, answers=None)
            if not running:
                return
            first = min(running)
            asking = [(n, one) for n, one in running.items() if n == first or not waits(one.wanted)]
            answers = iter((yield [attempt for _, one in asking for attempt in one.wanted]))
            for number, one in asking:
                advance(number, one.stream, list(islice(answers, len(one.wanted))))
    finally:
        for one in running.values():
            one.stream.close()


def drive(stream: Stream[_T], decode: Callable[[list[Attempt]], list[Answer]]) -> _T:
    """Runs a stream to its end: what it returns."""
    try:
        attempts = next(stream)
        while True:
            attempts = stream.send(decode(attempts))
    except StopIteration as end:
        found: _T = end.value
        return found
    finally:
        stream.close()


class InTurn:
    """What several streams print, in their order: a line is held back until its stream's turn has come."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._turn = 0
        self._held: dict[int, list[str]] = {}
        self._ended: set[int] = set()

    def voice(self, number: int) -> Callable[[str], None]:
        """The stream's own print()."""

        def say(line: str) -> None:
            if number == self._turn:
                self._say(line)
            else:
                self._held.setdefault(number, []).append(line)

        return say

    def end(self, number: int) -> None:
        """The stream says no more."""
        self._ended.add(number)
        while self._turn in self._ended:
            self._turn += 1
            for line in self._held.pop(self._turn, []):
                self._say(line)
