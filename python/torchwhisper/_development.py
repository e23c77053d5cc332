"""Where C++ programs find what they compile and link with; see examples/cpp."""

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def get_include() -> str:
    """The folder of the C++ headers: `#include "csrc/model/checkpoint.h"`."""
    return os.path.join(_PACKAGE, "include")


def get_cmake_dir() -> str:
    """The folder of torchwhisperConfig.cmake, which `cmake -Dtorchwhisper_DIR=...` wants to know."""
    return os.path.join(_PACKAGE, "share", "cmake", "torchwhisper")
