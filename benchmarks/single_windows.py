"""One 30 s window through the parts of a model, by every engine: what bench_encoder and bench_decode share.

Models have the official dimensions and random weights, in float16 as official checkpoints, the same for all
engines; the window is noise.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import converted
import engines
import numpy as np
import workers
from engines import Engine

_END = 50257  # <|endoftext|> of the multilingual vocabulary
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def random_checkpoint(size: str) -> Path:
    """A checkpoint of an official size with random weights that keep activations in their range."""

    def write(target: Path) -> None:
        import torch
        import whisper

        generator = torch.Generator().manual_seed(0)
        state = whisper.model.Whisper(whisper.model.ModelDimensions(**common.SIZES[size])).state_dict()
        for name, tensor in state.items():
            if name != "encoder.positional_embedding":
                scale = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.02
                one = float("ln" in name and name.endswith("weight"))
                state[name] = torch.randn(tensor.shape, generator=generator) * scale + one
            state[name] = state[name].half()
        torch.save({"dims": common.SIZES[size], "model_state_dict": state}, target)

    return converted.once(converted.FOLDER / f"random-float16-{size}.pt", write)


def window(mels: int) -> "np.ndarray[Any, Any]":
    """[1, mels, 3000]"""
    return np.random.default_rng(1).standard_normal((1, mels, 3000), np.float32)


def output_folder(keep: bool = False) -> Path:
    """Where workers leave features for their parent; emptied unless `keep`."""
    folder = converted.FOLDER / "features"
    folder.mkdir(parents=True, exist_ok=True)
    for path in () if keep else folder.iterdir():
        path.unlink()
    return folder


def job(engine: Engine, size: str, threads: int, **more: Any) -> dict[str, Any]:
    path = engines.model_for(engine, random_checkpoint(size))
    return {"engine": engine.name, "size": size, "path": str(path), "threads": threads, **more}


def measure(script: str, jobs: Sequence[dict[str, Any]], rounds: int) -> dict[str, workers.Measured]:
    with workers.Workers(workers.script_of(script), jobs) as running:
        return running.measure(rounds)


class Torch:
    """torchwhisper or openai-whisper."""

    def __init__(self, engine: Engine, job: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(job["threads"])
        torch.set_grad_enabled(False)
        self._ours = engine.package == "torchwhisper"
        self.package, self.model = engines.load_whisper(engine, Path(job["path"]))
        self.mel = torch.from_numpy(window(common.SIZES[job["size"]]["n_mels"]))
        self._session: contextlib.ExitStack | None = None

    def encode(self) -> Any:
        """By prepared weights, as within transcribe(): they are made and checked in the first call."""
        if self._ours and self._session is None:
            import torch

            from torchwhisper import _engine

            self._session = contextlib.ExitStack()
            self._session.enter_context(common.engine_required())
            self._session.enter_context(_engine.session(self.model, torch.float32))
        return self.model.embed_audio(self.mel)

    def decoder(self, tokens: int, beam: int) -> Callable[[], list[int]]:
        """A search that runs to its last token: the end of the text is suppressed."""
        tokenizer = self.package.tokenizer.get_tokenizer(
            True, num_languages=self.model.num_languages, language="en"
        )
        options = self.package.DecodingOptions(
            language="en",
            without_timestamps=True,
            fp16=False,
            sample_len=tokens,
            suppress_tokens=[tokenizer.eot],
            beam_size=beam if beam > 1 else None,
        )
        features = self.model.embed_audio(self.mel)

        def decode() -> list[int]:
            with common.engine_required() if self._ours else common.nothing():
                found: list[int] = self.package.decode(self.model, features, options)[0].tokens
            return found

        return decode


class CTranslate2:
    """The library below faster-whisper."""

    def __init__(self, engine: Engine, job: dict[str, Any]) -> None:
        engines.without_torch()
        import ctranslate2

        self._model = ctranslate2.models.Whisper(
            job["path"], device="cpu", compute_type=engine.compute, intra_threads=job["threads"]
        )
        mel = window(common.SIZES[job["size"]]["n_mels"])
        self._mel = ctranslate2.StorageView.from_array(mel)

    def encode(self) -> Any:
        return np.array(self._model.encode(self._mel))

    def decoder(self, tokens: int, beam: int) -> Callable[[], list[int]]:
        features = self._model.encode(self._mel)

        def decode() -> list[int]:
            found = self._model.generate(
                features,
                [list(PROMPT)],
                beam_size=beam,
                max_length=2 * tokens,  # no more than half of it is generated
                suppress_blank=False,
                suppress_tokens=[_END],
            )
            made: list[int] = found[0].sequences_ids[0]
            return made

        return decode


class WhisperCpp:
    """whisper.cpp's C functions. Its encoder also projects the keys and values of the cross-attention."""

    def __init__(self, engine: Engine, job: dict[str, Any]) -> None:
        import whisper_cpp

        self._model = whisper_cpp.Model(Path(job["path"]), job["threads"])
        self._model.set_mel(window(common.SIZES[job["size"]]["n_mels"])[0])

    def encode(self) -> None:
        self._model.encode()

    def decoder(self, tokens: int, beam: int) -> Callable[[], list[int]]:
        """Steps of the decoder without a search: as in its own benchmark, `beam` rows of one sequence."""
        self._model.encode()

        def decode() -> list[int]:
            self._model.decode([0] * len(PROMPT), 0)
            for past in range(len(PROMPT), len(PROMPT) + tokens - 1):
                self._model.decode([0] * beam, past)
            return []

        return decode


def open_model(job: dict[str, Any]) -> Torch | CTranslate2 | WhisperCpp:
    engine = engines.BY_NAME[job["engine"]]
    if engine.package == "faster_whisper":
        return CTranslate2(engine, job)
    return WhisperCpp(engine, job) if engine.package == "pywhispercpp" else Torch(engine, job)
