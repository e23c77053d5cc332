"""whisper.cpp through pywhispercpp, through a whisper-cli that the user names, and its C functions."""

import ctypes
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from engines import Setting, Transcribe

_TIMES = re.compile(r"^\[[0-9:.]+ --> [0-9:.]+\]\s*")


def open_package(model: Path, threads: int) -> "Transcribe":
    from pywhispercpp.model import Model

    opened: dict[int, Any] = {}

    def load(beam: int) -> Any:
        options: dict[str, Any] = {
            "n_threads": threads,
            "print_progress": False,
            "no_context": True,  # of earlier calls; within one the previous text is the prompt
            "suppress_nst": True,
            "temperature": 0.0,
            "temperature_inc": 0.0,
        }
        if beam > 1:
            options["beam_search"] = {"beam_size": beam, "patience": -1.0}
        strategy = int(beam > 1)
        return Model(
            str(model), params_sampling_strategy=strategy, redirect_whispercpp_logs_to=None, **options
        )

    def transcribe(audio: str, setting: "Setting", language: str) -> str:
        if setting.beam not in opened:
            opened[setting.beam] = load(setting.beam)
        segments = opened[setting.beam].transcribe(audio, language=language)
        return " ".join(segment.text for segment in segments)

    return transcribe


def open_program(program: str, model: Path, threads: int) -> "Transcribe":
    def transcribe(audio: str, setting: "Setting", language: str) -> str:
        search = ["--beam-size", str(setting.beam), "--best-of", "1"]
        command = [program, "--model", str(model), "--threads", str(threads), "--language", language, *search]
        command += ["--no-fallback", "--suppress-nst", "--no-prints", "--no-gpu", audio]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return " ".join(_TIMES.sub("", line) for line in done.stdout.splitlines())

    return transcribe


def how_built(program: str | None) -> str:
    """The instruction sets and libraries that whisper.cpp was compiled with, in its own words."""
    if program:
        return f"{program}, a program that the user names; its start and loading are part of its times"
    import _pywhispercpp

    switches = re.findall(r"(\w+) = 1", _pywhispercpp.whisper_print_system_info())
    version = ctypes.CDLL(_library()).whisper_version
    version.restype = ctypes.c_char_p
    return f"version {version().decode()} in pywhispercpp, compiled with {', '.join(switches)}"


def _library() -> str:
    """The file of libwhisper that the package has loaded."""
    import _pywhispercpp  # noqa: F401

    maps = Path("/proc/self/maps").read_text()
    return str(re.findall(r"(/\S*libwhisper\S*)", maps)[0])


class Model:
    """A model through the C interface, for single steps of the encoder and the decoder."""

    def __init__(self, path: Path, threads: int) -> None:
        self._library = ctypes.CDLL(_library())
        self._library.whisper_init_from_file.restype = ctypes.c_void_p
        self._silence()
        self._model = ctypes.c_void_p(self._library.whisper_init_from_file(str(path).encode()))
        if not self._model:
            raise RuntimeError(f"whisper.cpp cannot load {path}")
        self._threads = threads

    def _silence(self) -> None:
        self._log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self._library.whisper_log_set(self._log, None)

    def set_mel(self, mel: "np.ndarray[Any, Any]") -> None:
        """mel: [mels, frames], float32"""
        data = np.ascontiguousarray(mel, np.float32)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self._check(self._library.whisper_set_mel(self._model, pointer, data.shape[1], data.shape[0]))

    def encode(self) -> None:
        """The encoder, and the keys and values of the cross-attention."""
        self._check(self._library.whisper_encode(self._model, 0, self._threads))

    def decode(self, tokens: list[int], past: int) -> None:
        array = (ctypes.c_int * len(tokens))(*tokens)
        self._check(self._library.whisper_decode(self._model, array, len(tokens), past, self._threads))

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"whisper.cpp returned {status}")
