"""What an installed torchwhisper consists of, and what its metadata promises."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

import torchwhisper
from torchwhisper import _C

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(torchwhisper.__file__).parent


def needed_and_runpath(library: Path) -> tuple[list[str], str]:
    listing = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    runpath = re.search(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", listing)
    return re.findall(r"\(NEEDED\).*\[(.*)\]", listing), runpath.group(1) if runpath else ""


def test_metadata_requires_the_torch_it_was_built_with() -> None:
    requires = importlib.metadata.requires("torchwhisper") or []
    assert f"torch=={torch.__version__.split('+')[0]}" in requires


def test_metadata_names_the_version_and_the_command() -> None:
    assert importlib.metadata.version("torchwhisper") == torchwhisper.__version__
    commands = importlib.metadata.entry_points(group="console_scripts", name="torchwhisper")
    assert [command.value for command in commands] == ["torchwhisper.transcribe:cli"]


@pytest.mark.parametrize(
    "file",
    [
        "_C.pyi",
        "libtorchwhisper.so",
        "assets/gpt2.tiktoken",
        "assets/multilingual.tiktoken",
        "assets/mel_filters.npz",
        "normalizers/english.json",
    ],
)
def test_package_holds(file: str) -> None:
    assert (PACKAGE / file).stat().st_size > 0


def test_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("library", ["libtorchwhisper.so", Path(_C.__file__).name])
def test_libraries_find_their_neighbours(library: str) -> None:
    _, runpath = needed_and_runpath(PACKAGE / library)
    assert runpath == "$ORIGIN:$ORIGIN/../torch/lib"


def test_the_library_works_without_python() -> None:
    needed, _ = needed_and_runpath(PACKAGE / "libtorchwhisper.so")
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "python" in name or "cuda" in name]


def declared(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return {name: node for name, node in names.items() if not name.startswith("_")}


def public(names: object) -> set[str]:
    return {name for name in dir(names) if not name.startswith("_")}


def test_stub_lists_what_the_extension_offers() -> None:
    """Both ways: a stub that names too much misleads as much as one that names too little."""
    stub = declared(ast.parse((PACKAGE / "_C.pyi").read_text()).body)
    assert public(_C) == stub.keys()
    for name, node in stub.items():
        if isinstance(node, ast.ClassDef) and not issubclass(getattr(_C, name), Exception):
            own = {member for member in vars(getattr(_C, name)) if not member.startswith("_")}
            assert own <= declared(node.body).keys() <= public(getattr(_C, name)), name


def test_source_distribution_holds_the_sources(tmp_path: Path) -> None:
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=ROOT, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        files = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    wanted = ["CMakeLists.txt", "setup.py", "pyproject.toml", "csrc", "python"]
    tracked = subprocess.run(
        ["git", "ls-files", *wanted], check=True, cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert set(tracked) <= files
    assert not [name for name in files if name.endswith((".so", ".pyc"))]
