"""Speech recognition with Whisper on a LibTorch engine: `import torchwhisper as whisper` is a drop-in.

The names are those of openai-whisper 20250625 (whisper/__init__.py); `explain`, `activate`, `save_model`,
`get_include` and `get_cmake_dir` are our own.
"""

import hashlib as hashlib
import io as io
import os
import urllib as urllib
import warnings as warnings
from typing import List as List  # noqa: UP035 (as the next two: programs import them from here)
from typing import Optional as Optional
from typing import Union as Union

import torch
from tqdm import tqdm

from . import _extension as _extension  # isort: skip (says what is wrong if the engine cannot be loaded)
from . import _block_training, _bundled, _checkpoint, _compute_type, _hub, _hugging_face
from ._compat import activate as activate
from ._development import get_cmake_dir as get_cmake_dir
from ._development import get_include as get_include
from ._download import download as _downloaded
from ._engine import explain as explain
from ._memory import give_back
from ._save import save_model as save_model
from .audio import load_audio as load_audio
from .audio import log_mel_spectrogram as log_mel_spectrogram
from .audio import pad_or_trim as pad_or_trim
from .decoding import DecodingOptions as DecodingOptions
from .decoding import DecodingResult as DecodingResult
from .decoding import decode as decode
from .decoding import detect_language as detect_language
from .model import ModelDimensions as ModelDimensions
from .model import Whisper as Whisper
from .transcribe import transcribe as transcribe
from .version import __version__ as __version__

_BASE = "https://openaipublic.azureedge.net/main/whisper/models"

_MODELS = {
    "tiny.en": f"{_BASE}/d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03/tiny.en.pt",
    "tiny": f"{_BASE}/65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9/tiny.pt",
    "base.en": f"{_BASE}/25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead/base.en.pt",
    "base": f"{_BASE}/ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e/base.pt",
    "small.en": f"{_BASE}/f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872/small.en.pt",
    "small": f"{_BASE}/9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794/small.pt",
    "medium.en": f"{_BASE}/d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f/medium.en.pt",
    "medium": f"{_BASE}/345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1/medium.pt",
    "large-v1": f"{_BASE}/e4b87e7e0bf463eb8e6956e646f1e277e901512310def2c24bf0e11bd3c28e9a/large-v1.pt",
    "large-v2": f"{_BASE}/81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524/large-v2.pt",
    "large-v3": f"{_BASE}/e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb/large-v3.pt",
    "large": f"{_BASE}/e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb/large-v3.pt",
    "large-v3-turbo": f"{_BASE}/aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a/large-v3-turbo.pt",  # noqa: E501
    "turbo": f"{_BASE}/aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a/large-v3-turbo.pt",
}

# Per model the cross-attention heads that follow the words in time: base85 of gzip of a boolean
# (layers, heads) array.
_ALIGNMENT_HEADS = {
    "tiny.en": b"ABzY8J1N>@0{>%R00Bk>$p{7v037`oCl~+#00",
    "tiny": b"ABzY8bu8Lr0{>%RKn9Fp%m@SkK7Kt=7ytkO",
    "base.en": b"ABzY8;40c<0{>%RzzG;p*o+Vo09|#PsxSZm00",
    "base": b"ABzY8KQ!870{>%RzyTQH3`Q^yNP!>##QT-<FaQ7m",
    "small.en": b"ABzY8>?_)10{>%RpeA61k&I|OI3I$65C{;;pbCHh0B{qLQ;+}v00",
    "small": b"ABzY8DmU6=0{>%Rpa?J`kvJ6qF(V^F86#Xh7JUGMK}P<N0000",
    "medium.en": b"ABzY8usPae0{>%R7<zz_OvQ{)4kMa0BMw6u5rT}kRKX;$NfYBv00*Hl@qhsU00",
    "medium": b"ABzY8B0Jh+0{>%R7}kK1fFL7w6%<-Pf*t^=N)Qr&0RR9",
    "large-v1": b"ABzY8r9j$a0{>%R7#4sLmoOs{s)o3~84-RPdcFk!JR<kSfC2yj",
    "large-v2": b"ABzY8zd+h!0{>%R7=D0pU<_bnWW*tkYAhobTNnu$jnkEkXqp)j;w1Tzk)UH3X%SZd&fFZ2fC2yj",
    "large-v3": b"ABzY8gWO1E0{>%R7(9S+Kn!D~%ngiGaR?*L!iJG9p-nab0JQ=-{D1-g00",
    "large": b"ABzY8gWO1E0{>%R7(9S+Kn!D~%ngiGaR?*L!iJG9p-nab0JQ=-{D1-g00",
    "large-v3-turbo": b"ABzY8j^C+e0{>%RARaKHP%t(lGR*)0g!tONPyhe`",
    "turbo": b"ABzY8j^C+e0{>%RARaKHP%t(lGR*)0g!tONPyhe`",
}


def available_models() -> list[str]:
    """The names of the official models, in upstream's order. Source: whisper/__init__.py."""
    return list(_MODELS)


def load_model(
    name: str,
    device: str | torch.device | None = None,
    download_root: str | None = None,
    in_memory: bool = False,
    *,
    compute_type: str = "default",
    checkpointing: str | None = None,
) -> Whisper:
    """Load a model by its official name, from files of several kinds, or the bundled one (`demo`).

    Source: whisper/__init__.py.

    name: one of available_models(); "demo"; the path of a checkpoint {"dims", "model_state_dict"} or of a
        .safetensors file; a folder that transformers can load; "owner/model" on the Hugging Face Hub (needs
        huggingface_hub). A known name wins over a file of that name.
    device: where the model goes; default cuda where there is one, else cpu.
    download_root: folder of downloaded checkpoints; default $XDG_CACHE_HOME/whisper or ~/.cache/whisper, for
        models of the Hub their own cache.
    in_memory: read the whole checkpoint into memory before it is parsed.
    compute_type: what to compute in. "default": openai-whisper's numerics, on float32 parameters that may be
        trained. The others are for inference and keep the weights once, beside the engine's packed copy: on
        the CPU the parameters are the checkpoint's own tensors, left in the file where it allows that, on
        CUDA they have that type. "float32"; "float16" (CUDA); "bfloat16" (CUDA, and CPUs with AVX512-BF16 or
        AMX); "int8" (CPU: weights per channel, activations as they come).
    checkpointing: policy of activation checkpointing for training, see Whisper.enable_checkpointing.

    Returns the model, by default with parameters that require gradients and in training mode, as
    openai-whisper does. The alignment heads are the model's own where its name or its files tell them, else
    the upper half of the decoder.
    Raises ValueError for a compute type that is unknown or that the device does not compute fast, and for an
    unknown policy.
    Raises RuntimeError for a device that is not there, an unknown name, a download that does not match its
    checksum, and a file that is not a sound Whisper checkpoint; URLError where a download fails. Warns of
    weights that are not finite (with a compute type on the CPU, where they are not read yet, the first decode
    says so).
    """
    name = os.fspath(name)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    _check_there(device)  # which fails here, not after the download
    _compute_type.check(compute_type, device)
    _block_training.BlockTraining(checkpointing).checked()
    mapped = compute_type != "default" and device.type == "cpu"
    checkpoint = _read(name, download_root, in_memory, mapped)
    model = _checkpoint.build(checkpoint, name, device, compute_type, Whisper)
    model.enable_checkpointing(checkpointing)
    give_back()  # what the file was read into
    return model


def _check_there(device: torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(f"device {device} is not there: {reason}") from error


def _read(name: str, download_root: str | None, in_memory: bool, mapped: bool) -> _checkpoint.Checkpoint:
    if name == "demo":
        bundled = _bundled.load(name)
        return _checkpoint.Checkpoint(bundled["dims"], bundled["model_state_dict"])
    if name in _MODELS:
        source = _download(_MODELS[name], download_root or _default_root(), in_memory)
        checkpoint = _checkpoint.read(source, name, mapped)
        checkpoint.dump = _ALIGNMENT_HEADS.get(name)
        return checkpoint
    if os.path.isfile(name):
        if name.endswith(".safetensors") or _hugging_face.is_safetensors(name):
            return _hugging_face.read_safetensors(name, name, in_memory)
        return _checkpoint.read(_read_file(name) if in_memory else name, name, mapped)
    if os.path.isdir(name):
        return _hugging_face.read_folder(name, name, in_memory)
    unknown = f"Model {name} not found; available models = {available_models()}"
    if not _hub.is_id(name):
        raise RuntimeError(unknown)
    return _hugging_face.read_folder(_hub.folder(name, download_root, unknown), name, in_memory)


def _default_root() -> str:
    cache = os.getenv("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    return os.path.join(cache, "whisper")


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _download(url: str, root: str, in_memory: bool) -> bytes | str:
    """The checkpoint of `url` in folder `root`: its path, or its bytes if `in_memory`.

    It is fetched unless a file with the right checksum, the last folder of `url`, is there.
    """
    return _downloaded(url, root, in_memory, bar=tqdm)
