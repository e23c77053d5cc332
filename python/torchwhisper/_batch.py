"""Decodes windows of several transcriptions as one batch, with the tokens that each would have alone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch

from . import decoding
from ._lock_step import Answer, Attempt
from ._recording import takes_features
from .decoding import DecodingResult, decode_together

if TYPE_CHECKING:
    from .model import Whisper


def decode_attempts(model: "Whisper", batch_size: int, attempts: list[Attempt]) -> list[Answer]:
    """The result of each attempt, or why it has none; at most `batch_size` at once."""
    answers: dict[int, Answer] = {}
    for numbers in _groups(model, attempts, batch_size):
        found = _answers(model, [attempts[number] for number in numbers])
        answers |= dict(zip(numbers, found, strict=True))
    return [answers[number] for number in range(len(attempts))]


def draws(attempts: list[Attempt]) -> bool:
    """Whether they take random numbers, which the clips of one recording do in their order."""
    return any(attempt.options.temperature > 0 for attempt in attempts)


def _answers(model: "Whisper", attempts: list[Attempt]) -> list[Answer]:
    try:
        return [*_decode(model, attempts)]
    except Exception as error:
        if len(attempts) == 1:
            return [error]
    # One recording that cannot be decoded does not fail those beside it.
    return [answer for attempt in attempts for answer in _answers(model, [attempt])]


def _decode(model: "Whisper", attempts: list[Attempt]) -> list[DecodingResult]:
    if len(attempts) == 1:
        return [cast(DecodingResult, model.decode(attempts[0].audio, attempts[0].options))]
    tasks = [decoding.DecodingTask(model, attempt.options) for attempt in attempts]
    return decode_together(tasks, torch.stack([attempt.audio for attempt in attempts]))


def _groups(model: "Whisper", attempts: list[Attempt], batch_size: int) -> Iterator[list[int]]:
    """The numbers of the attempts that are decoded at once."""
    if len(attempts) == 1 or not takes_features(model):
        yield from ([number] for number in range(len(attempts)))
        return
    alike: dict[object, list[int]] = {}
    for number, attempt in enumerate(attempts):
        alike.setdefault(_likeness(model, attempt) or f"alone: {number}", []).append(number)
    for numbers in alike.values():
        yield from (numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size))


def _likeness(model: "Whisper", attempt: Attempt) -> tuple[int, ...] | None:
    """What is equal among attempts of one transcribe() that may be decoded at once; None for one alone."""
    options = attempt.options
    beams = options.beam_size or 1
    # Samples are drawn in the order of the windows. A search that ends with fewer candidates than beams is
    # filled up with unfinished ones, which go on growing as long as the batch does.
    if options.temperature != 0 or round(beams * (options.patience or 1)) < beams:
        return None
    try:
        task = decoding.DecodingTask(model, options)
    except Exception:
        return None  # it will say so itself
    return task.sample_begin, task.sot_index
