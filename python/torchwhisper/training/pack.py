"""Which utterances share a window. Short ones packed together make the most of the encoder, which costs as
much for one word as for 30 seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .manifest import Utterance


@dataclass(frozen=True)
class PackOptions:
    """utterances: most per window, 1 for no packing, 0 for as many as there is room for.
    gap: longest silence between two of them, in seconds; each is drawn."""

    utterances: int = 1
    gap: float = 0.3


class Window(NamedTuple):
    """Indices of utterances, and at which second each starts."""

    members: tuple[int, ...]
    starts: tuple[float, ...]


class Sizes(NamedTuple):
    """What an utterance takes of a window: seconds, and tokens of its text."""

    seconds: Sequence[float]
    tokens: Sequence[int]


def plan_epoch(
    utterances: Sequence[Utterance],
    sizes: Sizes,
    room: tuple[float, int],
    options: PackOptions,
    seed: tuple[int, int],
) -> list[Window]:
    """The windows of an epoch in the order of training: every utterance once, in an order drawn anew.

    How full a window gets is drawn evenly between one utterance and the most there may be, since what is to
    be transcribed later may be short or long. Only utterances of one language and task share a window.

    Args:
        room: seconds of a window, and tokens for texts.
        seed: of the run and the epoch; the same seed gives the same plan.
    """
    random = np.random.default_rng(seed)
    groups: dict[tuple[str | None, str], list[int]] = {}
    for index in random.permutation(len(utterances)).tolist():
        groups.setdefault((utterances[index].language, utterances[index].task), []).append(index)
    windows = [
        window
        for key in sorted(groups, key=str)
        for window in _fill(groups[key], sizes, room, options, random)
    ]
    return [windows[i] for i in random.permutation(len(windows))]


def _fill(
    order: list[int],
    sizes: Sizes,
    room: tuple[float, int],
    options: PackOptions,
    random: np.random.Generator,
) -> list[Window]:
    windows: list[Window] = []
    members: list[int] = []
    starts: list[float] = []
    end = tokens = 0.0
    most_seconds, most = room[0], 1

    def draw() -> None:
        nonlocal most_seconds, most
        share = float(random.uniform())
        if options.utterances:
            most = 1 + int(share * options.utterances)
        else:
            most, most_seconds = len(order), room[0] * share

    draw()
    for index in order:
        start = end + float(random.uniform(0, options.gap)) if members else 0.0
        full = len(members) >= most or start + sizes.seconds[index] > min(most_seconds, room[0])
        # A timestamp before and after each utterance may come on top of its text.
        if members and (full or tokens + sizes.tokens[index] + 2 > room[1]):
            windows.append(Window(tuple(members), tuple(starts)))
            members, starts, start, tokens = [], [], 0.0, 0.0
            draw()
        members.append(index)
        starts.append(start)
        end = start + sizes.seconds[index]
        tokens += sizes.tokens[index] + 2
    if members:
        windows.append(Window(tuple(members), tuple(starts)))
    return windows
