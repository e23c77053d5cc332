"""A figure of results: a group of bars for each setting, a bar for each engine."""

import sys
from collections.abc import Mapping
from pathlib import Path

import common

# The project's own engines in one hue, each peer's in another.
_COLOURS = {
    "torchwhisper": ("#0b5fa5", "#4d94cf", "#9cc7ea"),
    "openai-whisper": ("#444444",),
    "faster-whisper": ("#b8651b", "#e3a869"),
    "CTranslate2": ("#b8651b", "#e3a869"),
    "whisper.cpp": ("#3f7d3a", "#93c08e"),
    "transformers": ("#7a4fa3",),
}


def draw(groups: Mapping[str, Mapping[str, common.Spread]], title: str, unit: str, target: Path) -> None:
    """Writes the medians as bars with lines from the minimum to the maximum; leaves it without matplotlib.

    groups: per setting the spread of each engine.
    """
    try:
        import matplotlib
    except ImportError:
        print(f"left out: {target.name} (not installed: make peers)", file=sys.stderr)
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "torchwhisper"
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    colours = _colours(names)
    figure, axes = pyplot.subplots(
        figsize=(9, 1.2 + 0.22 * sum(map(len, groups.values())) + 0.25 * len(groups))
    )
    at, ticks, labelled = 0.0, [], set()
    for setting, group in groups.items():
        first = at
        for name, spread in group.items():
            line = [[spread.median - spread.minimum], [spread.maximum - spread.median]]
            label = None if name in labelled else name
            labelled.add(name)
            axes.barh(at, spread.median, 0.9, xerr=line, color=colours[name], ecolor="#222222", label=label)
            axes.text(spread.maximum, at, f" {spread.median:.3g}", va="center", fontsize=7)
            at += 1
        ticks.append(((first + at - 1) / 2, setting))
        at += 1
    axes.set_yticks([place for place, _ in ticks], [setting for _, setting in ticks])
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} (shorter is better)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def _colours(names: list[str]) -> dict[str, str]:
    colours: dict[str, str] = {}
    for family, shades in _COLOURS.items():
        members = [name for name in names if name.startswith(family)]
        colours |= {name: shades[min(at, len(shades) - 1)] for at, name in enumerate(members)}
    return {name: colours.get(name, "#888888") for name in names}
