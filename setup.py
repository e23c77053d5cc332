"""Builds torchwhisper._C and libtorchwhisper with CMake; all metadata is in pyproject.toml.

The C++ interface of torch has no promise of binary compatibility, so the wheel requires exactly the torch
that it was built with: this is why the dependencies are written here and not in pyproject.toml.

Environment:
  CMAKE_ARGS                    further arguments for CMake's configure step
  CMAKE_BUILD_PARALLEL_LEVEL    compile jobs
  TORCHWHISPER_CMAKE_BUILD_DIR  a folder that is kept between builds, so that a rebuild is short
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11
        import torch

        # .../torchwhisper/_C.so -> the folder that holds the package torchwhisper
        prefix = Path(self.get_ext_fullpath(ext.name)).resolve().parent.parent
        build_dir = Path(os.environ.get("TORCHWHISPER_CMAKE_BUILD_DIR") or Path(self.build_temp).resolve())
        build_dir.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build_dir),
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DTORCHWHISPER_TORCH_ROOT={torch.__path__[0]}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build_dir)], check=True)
        subprocess.run(["cmake", "--install", str(build_dir)], check=True)


def requirements() -> list[str]:
    import torch

    built = torch.__version__.split("+")[0]
    return [f"torch=={built}", "more-itertools", "numpy", "regex", "tiktoken", "tqdm"]


setup(
    ext_modules=[Extension("torchwhisper._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    install_requires=requirements(),
)
