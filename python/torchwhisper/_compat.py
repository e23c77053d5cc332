"""The name `whisper` for this package: each module `whisper.X` is the very module `torchwhisper.X`.

The wheel in python/compat calls `install` when `whisper` is imported; `activate` does it for one process.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType

_OURS, _THEIRS = __package__, "whisper"


class _AliasFinder(MetaPathFinder):
    """Answers the import of a module `whisper.X` that was not imported before."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # Scripts run under their own name: `python -m whisper` finds the file in the package's folder.
        if fullname.partition(".")[0] != _THEIRS or fullname.endswith("__main__"):
            return None
        own = _OURS + fullname.removeprefix(_THEIRS)
        if importlib.util.find_spec(own) is None:
            return None
        return ModuleSpec(fullname, _AliasLoader(own))


class _AliasLoader(Loader):
    def __init__(self, own: str) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._own)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import has put that of the alias there
        install()  # once more, should a program have removed the names


class _AnyNameLoader(SourceFileLoader):
    """Gives a module's code under each of its names: `python -m whisper.transcribe` asks for it."""

    def get_filename(self, name: str | None = None) -> str:
        return str(self.path)


def install() -> None:
    """Gives every module of this package, loaded now or later, its second name."""
    for name, module in list(sys.modules.items()):
        if name == _OURS or name.startswith(f"{_OURS}."):
            sys.modules[_THEIRS + name.removeprefix(_OURS)] = module
    script = sys.modules[f"{_OURS}.transcribe"].__spec__
    if script is not None and type(script.loader) is SourceFileLoader:
        script.loader = _AnyNameLoader(script.loader.name, script.loader.path)
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())


def activate() -> None:
    """Lets `import whisper` mean this package in this process, for programs written for openai-whisper.

    Raises RuntimeError if another `whisper` is imported already: parts of it would live on.
    """
    for name in sorted(sys.modules):
        own, there = sys.modules.get(_OURS + name.removeprefix(_THEIRS)), sys.modules[name]
        if name.partition(".")[0] == _THEIRS and there is not own:
            raise RuntimeError(
                f"{name} is imported already, from {getattr(there, '__file__', None)}: "
                f"call {_OURS}.activate() before the first `import whisper`"
            )
    install()
