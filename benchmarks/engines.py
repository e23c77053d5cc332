"""The engines that are compared, which of them are here, and how each loads a model and transcribes."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import common
import converted

# What the benchmark asks of every engine; there is no VAD and no batching, and previous text is a prompt.
Transcribe = Callable[[str, "Setting", str], str]  # (audio, setting, language) -> text


@dataclass(frozen=True)
class Setting:
    """Options under which all engines do the same; temperature 0 unless `fallback`."""

    beam: int = 1
    words: bool = False
    fallback: bool = False


@dataclass(frozen=True)
class Engine:
    name: str
    package: str  # the module that must be installed
    compute: str  # the type that it computes in, in the words of the package
    install: str = ""  # how to get the package

    @property
    def library(self) -> str:
        """The name where only the library below is measured."""
        return self.name.replace("faster-whisper", "CTranslate2")

    def does(self, setting: Setting) -> bool:
        if self.package == "pywhispercpp":
            return not setting.words and not setting.fallback
        # Fallbacks draw other random numbers in another engine.
        return not setting.fallback or self.package in ("torchwhisper", "whisper")


_PEERS = "make peers"
ENGINES = (
    Engine(common.OURS, "torchwhisper", "float32"),
    Engine(f"{common.OURS} bfloat16", "torchwhisper", "bfloat16"),
    Engine(f"{common.OURS} int8", "torchwhisper", "int8"),
    Engine(common.REFERENCE, "whisper", "float32", "pip install openai-whisper"),
    Engine("faster-whisper float32", "faster_whisper", "float32", _PEERS),
    Engine("faster-whisper int8", "faster_whisper", "int8", _PEERS),
    Engine("whisper.cpp f16", "pywhispercpp", "f16", _PEERS),
    Engine("whisper.cpp q8_0", "pywhispercpp", "q8_0", _PEERS),
)
BY_NAME = {engine.name: engine for engine in ENGINES}


def why_absent(engine: Engine, whisper_cli: str | None = None) -> str | None:
    """Why an engine cannot be measured here, or None."""
    if engine.package == "pywhispercpp" and whisper_cli:
        return None
    if util.find_spec(engine.package) is None:
        return f"not installed: {engine.install}"
    if engine.package == "faster_whisper" and util.find_spec("transformers") is None:
        return "its models are converted with transformers, which is not installed"
    if engine.package == "torchwhisper" and engine.compute != "float32":
        return _why_not_computed(engine.compute)
    return None


def _why_not_computed(compute: str) -> str | None:
    import torch

    from torchwhisper import _compute_type

    try:
        _compute_type.check(compute, torch.device("cpu"))
    except ValueError as error:
        return str(error)
    return None


def present(names: Sequence[str] | None, whisper_cli: str | None = None) -> list[Engine]:
    """The engines to measure; those that are not here are named with the line that installs them.

    names: the only ones wanted, or None for all.
    """
    found = []
    for engine in [BY_NAME[name] for name in names] if names else ENGINES:
        reason = why_absent(engine, whisper_cli)
        if reason is None:
            found.append(engine)
        else:
            print(f"left out: {engine.name} ({reason})", file=sys.stderr)
    return found


def model_for(engine: Engine, model: Path) -> Path:
    """The model in the form that the engine reads, converted if that has not been done before."""
    if engine.package == "faster_whisper":
        return converted.ctranslate2_folder(model, engine.compute)
    if engine.package == "pywhispercpp":
        return converted.ggml_file(model, engine.compute)
    return model


def load_whisper(engine: Engine, path: Path) -> tuple[Any, Any]:
    """The package, torchwhisper or openai-whisper, and a model."""
    if engine.package == "torchwhisper":
        import torchwhisper

        chosen: dict[str, Any] = {} if engine.compute == "float32" else {"compute_type": engine.compute}
        return torchwhisper, torchwhisper.load_model(str(path), device="cpu", **chosen)
    import whisper

    return whisper, whisper.load_model(str(path), device="cpu")


def open_transcriber(engine: Engine, model: Path, threads: int, whisper_cli: str | None = None) -> Transcribe:
    """Loads `model` (from model_for()) and gives the function that is timed."""
    if engine.package == "faster_whisper":
        return _open_faster_whisper(engine, model, threads)
    if engine.package == "pywhispercpp":
        if whisper_cli:
            import whisper_cpp

            return whisper_cpp.open_program(whisper_cli, model, threads)
        import whisper_cpp

        return whisper_cpp.open_package(model, threads)
    return _open_whisper(engine, model, threads)


def _open_whisper(engine: Engine, path: Path, threads: int) -> Transcribe:
    import torch

    torch.set_num_threads(threads)
    package, model = load_whisper(engine, path)
    ours = engine.package == "torchwhisper"

    def transcribe(audio: str, setting: Setting, language: str) -> str:
        torch.manual_seed(0)
        options: dict[str, Any] = {"beam_size": setting.beam if setting.beam > 1 else None}
        options["temperature"] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if setting.fallback else 0.0
        options["best_of"] = 5 if setting.fallback else None
        with common.engine_required() if ours else common.nothing():
            result = package.transcribe(
                model, audio, fp16=False, language=language, word_timestamps=setting.words, **options
            )
        return str(result["text"])

    return transcribe


def without_torch() -> None:
    """CTranslate2 loads torch and transformers where it finds them, and never needs them to run a model.

    A process without them is what its users have, and its memory is the one to be compared.
    """
    for name in ("torch", "transformers"):
        sys.modules[name] = None  # type: ignore[assignment]


def _open_faster_whisper(engine: Engine, folder: Path, threads: int) -> Transcribe:
    without_torch()
    import faster_whisper

    model = faster_whisper.WhisperModel(
        str(folder), device="cpu", compute_type=engine.compute, cpu_threads=threads, num_workers=1
    )

    def transcribe(audio: str, setting: Setting, language: str) -> str:
        segments, _ = model.transcribe(
            audio,
            language=language,
            temperature=0.0,
            beam_size=setting.beam,
            word_timestamps=setting.words,
            condition_on_previous_text=True,
            vad_filter=False,
        )
        return "".join(segment.text for segment in segments)

    return transcribe
