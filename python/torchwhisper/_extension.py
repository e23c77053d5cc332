"""Loads the compiled engine, and says in one sentence why that did not work."""

import importlib

import torch


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _check_torch(built_with: str | None, running: str) -> None:
    """The C++ interface of torch has no promise of binary compatibility between minor versions."""
    if built_with is None:  # a build of before it was recorded
        raise ImportError(
            "torchwhisper's compiled part is older than its Python part: rebuild it with "
            "pip install --no-build-isolation --force-reinstall --no-deps . in the source folder"
        )
    if _minor(built_with) != _minor(running):
        raise ImportError(
            f"torchwhisper was built with torch {built_with}, but torch {running} is installed: "
            f"install torch {_minor(built_with)}, or rebuild torchwhisper with "
            "pip install --no-build-isolation --force-reinstall --no-deps"
        )


try:
    _C = importlib.import_module(f"{__package__}._C")
except ModuleNotFoundError as error:
    raise ImportError(
        "torchwhisper's compiled part (torchwhisper._C) is missing for this Python: "
        "build it with pip install --no-build-isolation . in the source folder"
    ) from error
except ImportError as error:
    raise ImportError(
        f"torchwhisper's compiled part could not be loaded with torch {torch.__version__} ({error}): "
        "if it was built with another torch, rebuild it with pip install --no-build-isolation ."
    ) from error

_check_torch(getattr(_C, "torch_version", None), torch.__version__)
