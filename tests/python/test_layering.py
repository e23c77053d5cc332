"""The order of the rooms in csrc/: who may include whom, and which headers stay out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp"})
CPP_TESTS = sorted((ROOT / "tests" / "cpp").rglob("*_test.cpp"))

MAY_INCLUDE: dict[str, set[str]] = {
    "common": set(),
    "kernels": {"common"},
    "audio": {"common"},
    "nn": {"kernels", "common"},
    "model": {"nn", "common"},
    "decoding": {"model", "kernels", "common"},
    "timing": {"model", "kernels", "common"},
    "bindings": {"decoding", "timing", "model", "nn", "kernels", "audio", "common"},
}
# Each costs more parse time than all that we need from it.
BANNED = {"torch/extension.h", "torch/torch.h", "torch/all.h", "torch/nn.h", "torch/nn/modules.h"}
PYTHON = re.compile(
    r"Python\.h|pybind11/.*|torch/csrc/(utils/pybind|Exceptions|autograd/python_\w+|THP\w*)\.h"
)
TORCH = re.compile(r"(torch|ATen|c10)/.*")
# These work without torch, so that they can be used and tested alone.
TORCH_FREE = {"common", "audio/sound_file"}
MAX_LINES = 500


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), flags=re.MULTILINE)


def room(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def torch_free(path: Path) -> bool:
    stem = str(path.relative_to(CSRC).with_suffix(""))
    return (room(path) in TORCH_FREE or stem in TORCH_FREE) and path.name not in {"check.h", "pch.h"}


def test_every_folder_is_a_known_room() -> None:
    assert {room(path) for path in SOURCES} <= MAY_INCLUDE.keys()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_includes(path: Path) -> None:
    allowed = MAY_INCLUDE[room(path)] | {room(path)}
    for header in includes(path):
        assert header not in BANNED, f"{header} is banned: include the few headers that are needed"
        if header.startswith("csrc/"):
            other = header.split("/")[1]
            assert other in allowed, f"{room(path)} may not include {other}"
        else:
            assert not (path.parent / header).exists(), (
                f'write "csrc/{room(path)}/{header}", from the repo root'
            )
        if room(path) != "bindings":
            assert not PYTHON.fullmatch(header), "only bindings/ may include Python or pybind11"
        if torch_free(path):
            assert not TORCH.fullmatch(header), "this file is to stay free of torch"
        if header.startswith("spdlog/"):
            assert name(path) == "csrc/common/logging.cpp", "spdlog stays in one file"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".cpp"], ids=name)
def test_a_source_includes_its_own_header_first(path: Path) -> None:
    """So every header is compiled once with nothing before it: it includes all that it needs."""
    own = path.with_suffix(".h")
    if own.exists():
        assert includes(path)[0] == name(own)


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".h"], ids=name)
def test_headers_are_included_once(path: Path) -> None:
    assert "#pragma once" in path.read_text().split("#include")[0]


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.suffix == ".cpp" and room(path) != "bindings"], ids=name
)
def test_every_source_has_a_test_of_its_name(path: Path) -> None:
    twin = ROOT / "tests" / "cpp" / room(path) / f"{path.stem}_test.cpp"
    assert twin.exists(), f"{name(path)} has no {name(twin)}"


@pytest.mark.parametrize("path", [*SOURCES, *CPP_TESTS], ids=name)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
