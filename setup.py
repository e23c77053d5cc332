"""Builds torchwhisper._C and libtorchwhisper with CMake; all other metadata is in pyproject.toml.

The C++ interface of torch has no promise of binary compatibility, so the wheel requires exactly the torch
that it was built with: this is why the dependencies are written here and not in pyproject.toml.

Environment:
  CMAKE_ARGS                    further arguments for CMake's configure step
  CMAKE_BUILD_PARALLEL_LEVEL    compile jobs (default: what cores and memory allow)
  TORCHWHISPER_CMAKE_BUILD_DIR  a folder that is kept between builds, so that a rebuild is short
"""

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# Enough for one compiler that reads torch's headers.
BYTES_PER_JOB = 2 * 1024**3


def program(name: str) -> str:
    """A build tool, looked up beside the interpreter first: a virtual environment need not be activated."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    if found is None:
        sys.exit(f"{name} was not found: pip install {name}")
    return found


def torch_root() -> Path:
    """The folder of the torch package, found without the seconds that importing it takes."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"torch is not installed for {sys.executable}: install the one that you will run with")
    return Path(next(iter(spec.submodule_search_locations)))


def compile_jobs() -> int:
    cores = os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return cores
    return max(1, min(cores, memory // BYTES_PER_JOB))


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        # .../torchwhisper/_C.so -> the folder that holds the package torchwhisper
        prefix = Path(self.get_ext_fullpath(ext.name)).resolve().parent.parent
        kept = os.environ.get("TORCHWHISPER_CMAKE_BUILD_DIR")
        build_dir = Path(kept or self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        cmake = program("cmake")
        configure = [
            cmake,
            # Isolated builds find their tools in a new folder each time: a cache would name dead ones.
            *([] if kept else ["--fresh"]),
            *("-S", str(ROOT), "-B", str(build_dir), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DTORCHWHISPER_TORCH_ROOT={torch_root()}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(compile_jobs())
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build_dir), "--parallel", jobs], check=True)
        prefixes = [prefix]
        if self.editable_mode:  # setuptools copies the extension to the sources, but not our library
            prefixes.append(ROOT / "python")
        for folder in prefixes:
            subprocess.run([cmake, "--install", str(build_dir), "--prefix", str(folder)], check=True)


def requirements() -> list[str]:
    """Without torch (a source distribution is being made) the range that the code is written for."""
    try:
        torch = "torch==" + importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        torch = "torch>=2.11,<2.15"
    return [torch, "more-itertools", "numpy", "regex", "safetensors", "tiktoken", "tqdm"]


setup(
    ext_modules=[Extension("torchwhisper._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    install_requires=requirements(),
)
