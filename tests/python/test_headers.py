"""Exported C++ declarations carry documentation, because headers are what a C++ user reads."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADERS = sorted(
    path
    for path in (ROOT / "csrc").rglob("*.h")
    if "TORCHWHISPER_API" in path.read_text() and path.name != "api.h"
)


def undocumented(text: str) -> list[str]:
    """The exported declarations that have neither a `///` line above them nor one above their group.

    A group is a run of declarations with no blank line between them.
    """
    found = []
    documented = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("///"):
            documented = True
        elif not line:
            documented = False
        elif re.search(r"\bTORCHWHISPER_API\b", line) and not documented:
            found.append(line)
    return found


def test_finds_what_is_undocumented() -> None:
    text = "/// Adds.\nTORCHWHISPER_API int add(int a);\n\nclass TORCHWHISPER_API Silent {\n"
    assert undocumented(text) == ["class TORCHWHISPER_API Silent {"]


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_exported_names_are_documented(path: Path) -> None:
    assert undocumented(path.read_text()) == []
