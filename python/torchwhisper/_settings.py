"""Environment variables of this package that more than one module reads."""

import os


def flag(name: str) -> bool:
    """Whether `name` is set to 1, true, yes or on; unset, empty, 0, false, no and off are false.

    Raises ValueError for anything else.
    """
    value = os.environ.get(name, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise ValueError(f"{name} is {value!r}, expected 1 or 0")


def number(name: str, default: float, least: float) -> float:
    """The number in `name`. Raises ValueError if it is none, or below `least`."""
    given = os.environ.get(name) or str(default)
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise ValueError(f"{name} is {given!r}, expected a number from {least:g}")
    return value
