"""Sound files to samples, and samples to log-mel spectrograms.

Names, defaults and results follow openai-whisper's `whisper/audio.py`. Files that libsndfile knows are
decoded, resampled and mixed down in C++, everything else goes through the ffmpeg program; both give the same
samples.
"""

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache, partial  # noqa: F401 (programs import the unused ones from here)
from subprocess import CalledProcessError, run  # noqa: F401
from typing import IO, Any, Optional, TypeAlias, TypeVar, Union  # noqa: F401

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from . import _C
from .utils import exact_div

SAMPLE_RATE = 16000
N_FFT = 400
HOP_LENGTH = 160
CHUNK_LENGTH = 30  # seconds
N_SAMPLES = CHUNK_LENGTH * SAMPLE_RATE  # of a 30-second chunk
N_FRAMES = exact_div(N_SAMPLES, HOP_LENGTH)  # mel frames of a chunk

N_SAMPLES_PER_TOKEN = HOP_LENGTH * 2  # one of the encoder's convolutions has stride 2
FRAMES_PER_SECOND = exact_div(SAMPLE_RATE, HOP_LENGTH)
TOKENS_PER_SECOND = exact_div(SAMPLE_RATE, N_SAMPLES_PER_TOKEN)

AudioFile: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
Samples: TypeAlias = npt.NDArray[np.float32]
ArrayOrTensor = TypeVar("ArrayOrTensor", npt.NDArray[Any], torch.Tensor)

_PROTOCOL = re.compile(r"-$|[A-Za-z][A-Za-z0-9+.-]+[:,]")  # names that ffmpeg does not take as a file's
_FULL_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31}
_LARGEST_SAMPLE = 1e15  # beyond it the energies overflow float32


def load_audio(file: AudioFile, sr: int = SAMPLE_RATE) -> Samples:
    """
    Read a sound file as mono samples at `sr` Hz.

    Parameters
    ----------
    file: the path of a file, a URL that ffmpeg knows, or an encoded file as bytes or as an open binary file.
        libsndfile decodes WAV, FLAC, OGG and MP3 (at most two channels); the ffmpeg program everything else.
    sr: the sample rate of the result, 16000 for the model

    Returns
    -------
    float32 array, shape = (samples,): multiples of 1/32768 in [-1, 1). Empty for a file without samples.

    Raises RuntimeError("Failed to load audio: ...") where the file is missing, empty, a directory or no
    audio, or where ffmpeg is needed and not installed; ValueError for NaN or infinity among the samples.
    Warns (UserWarning) where a damaged file gives less than it promises.

    Source: whisper/audio.py load_audio.
    """
    if isinstance(file, (str, os.PathLike)):
        return _load_path(os.fspath(file), sr)
    if isinstance(file, (bytes, bytearray, memoryview)):
        return _load_encoded(file, sr)
    if hasattr(file, "read"):
        encoded = file.read()
        if isinstance(encoded, bytes):
            return _load_encoded(encoded, sr)
    raise TypeError(
        f"the audio file is a {type(file).__name__}, expected a path, a URL, bytes or an open binary file"
    )


def _load_path(path: str, sr: int) -> Samples:
    if not os.path.exists(path):
        if _PROTOCOL.match(path):
            return _run_ffmpeg(path, sr, f"{path!r} is no file here")[0]
        raise _failure(f"there is no file {path!r}")
    return _load(
        partial(_C.load_audio, os.fsencode(path)), partial(_run_ffmpeg, f"file:{path}"), sr, repr(path)
    )


def _load_encoded(encoded: bytes | bytearray | memoryview, sr: int) -> Samples:
    def through_file(sr: int, reason: str) -> tuple[Samples, str]:
        # Not through a pipe: ffmpeg has to seek in some containers.
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "audio")
            with open(path, "wb") as file:
                file.write(encoded)
            return _run_ffmpeg(f"file:{path}", sr, reason)

    return _load(partial(_C.decode_audio, encoded), through_file, sr, "the data")


def _load(
    libsndfile: Callable[[int, _C.Control], tuple[Samples, str]],
    ffmpeg: Callable[[int, str], tuple[Samples, str]],
    sr: int,
    name: str,
) -> Samples:
    """Decodes with libsndfile, and with ffmpeg where that is not enough."""
    try:
        samples, doubt = libsndfile(sr, _C.Control())
    except _C.UnsupportedSound as unsupported:
        return ffmpeg(sr, f"{name}: {unsupported}")[0]
    except _C.SoundError as error:
        raise _failure(f"{name}: {error}") from None
    except ValueError as error:
        raise ValueError(f"Failed to load audio: {name}: {error}") from None
    if doubt and shutil.which("ffmpeg") is not None:
        with suppress(RuntimeError):
            others, errors = ffmpeg(sr, "")
            if len(others) > len(samples) and not errors:
                doubt = ""
            if len(others) > 0:
                samples = others
    if doubt:
        warnings.warn(f"{name} may be incomplete: {doubt}", stacklevel=4)
    return samples


def _failure(reason: str) -> RuntimeError:
    return RuntimeError(f"Failed to load audio: {reason}")


def _run_ffmpeg(url: str, sr: int, reason: str) -> tuple[Samples, str]:
    """What the ffmpeg program decodes, asked as openai-whisper asks it, and what it complains about."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise _failure(
            f"{reason}, and the ffmpeg program is not installed: install ffmpeg (Debian: apt install "
            "ffmpeg), or convert the audio to WAV, FLAC, OGG Vorbis or MP3 with one or two channels"
        )
    # fmt: off
    command = [
        program, "-nostdin", "-loglevel", "error", "-threads", "0", "-i", url,
        "-f", "s16le", "-ac", "1", "-acodec", "pcm_s16le", "-ar", str(sr), "-",
    ]
    # fmt: on
    done = run(command, capture_output=True)
    errors = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        problem = errors.splitlines()[-1] if errors else f"exit status {done.returncode}"
        raise _failure(f"{reason}, and ffmpeg cannot decode it: {problem}")
    whole = len(done.stdout) // 2 * 2
    samples = np.frombuffer(done.stdout[:whole], "<i2").astype(np.float32)
    samples /= 32768.0
    return samples, errors


def pad_or_trim(array: ArrayOrTensor, length: int = N_SAMPLES, *, axis: int = -1) -> ArrayOrTensor:
    """
    `array` (numpy or torch, any shape) cut, or filled with zeros at the end, to `length` along `axis`.

    Source: whisper/audio.py pad_or_trim.
    """
    missing = length - array.shape[axis]
    if isinstance(array, torch.Tensor):
        if missing < 0:
            return array.index_select(dim=axis, index=torch.arange(length, device=array.device))
        after = array.ndim - 1 - axis % array.ndim  # F.pad counts from the last dimension
        return F.pad(array, [0, 0] * after + [0, missing]) if missing > 0 else array
    if missing < 0:
        return np.take(array, np.arange(length), axis=axis)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return np.pad(array, widths) if missing > 0 else array


@cache
def mel_filters(device: str | torch.device, n_mels: int) -> torch.Tensor:
    """
    The filters that turn energies of an STFT into mel bands (Slaney's, as librosa computes them).

    Parameters
    ----------
    device: where the tensor is to be; n_mels: 80 or 128, else AssertionError

    Returns
    -------
    float32 tensor, shape = (n_mels, 201). The same object for every call: do not change it.

    Source: whisper/audio.py mel_filters.
    """
    assert n_mels in {80, 128}, f"Unsupported n_mels: {n_mels}"
    path = os.path.join(os.path.dirname(__file__), "assets", "mel_filters.npz")
    with np.load(path, allow_pickle=False) as filters:
        return torch.from_numpy(filters[f"mel_{n_mels}"]).to(device)


def log_mel_spectrogram(
    audio: AudioFile | npt.NDArray[Any] | torch.Tensor,
    n_mels: int = 80,
    padding: int = 0,
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """
    The log-mel spectrogram of a recording.

    Parameters
    ----------
    audio: what load_audio takes, or an array or tensor of 16 kHz samples, shape = (samples,) or
        (batch, samples). Floating types are converted to float32; int16 and int32 are divided by their full
        scale; other types are a TypeError. NaN, infinity and samples beyond 1e15 are a ValueError.
    n_mels: the number of mel bands, 80 or 128
    padding: zero samples to append
    device: where to compute; by default where `audio` is

    Returns
    -------
    float32 tensor, shape = (n_mels, frames) or (batch, n_mels, frames), one frame per 160 samples: log10
    of the energies, from 8 below the largest of the whole tensor up to it, then (x + 4) / 4.

    Source: whisper/audio.py log_mel_spectrogram.
    """
    if not isinstance(audio, (np.ndarray, torch.Tensor)):
        audio = load_audio(audio)
    samples = _as_float32(_as_tensor(audio))
    if device is not None:
        samples = samples.to(device)
    filters = mel_filters(samples.device, n_mels)
    if samples.device.type == "cpu" and not (samples.requires_grad and torch.is_grad_enabled()):
        return _C.log_mel_spectrogram(samples.detach(), filters, max(padding, 0), _C.Control())
    return _torch_log_mel(samples, filters, padding)


def _as_tensor(audio: npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
    if isinstance(audio, torch.Tensor):
        return audio
    if not audio.dtype.isnative:
        audio = audio.astype(audio.dtype.newbyteorder("="))
    if audio.dtype == np.longdouble:
        audio = audio.astype(np.float64)
    if not audio.flags.writeable or any(stride < 0 for stride in audio.strides):
        audio = audio.copy()  # torch has neither
    try:
        return torch.from_numpy(audio)
    except TypeError:
        raise _wrong_type(audio.dtype) from None


def _wrong_type(dtype: object) -> TypeError:
    return TypeError(
        f"the audio samples are {str(dtype).removeprefix('torch.')}, expected floating point, int16 or int32"
    )


def _as_float32(samples: torch.Tensor) -> torch.Tensor:
    if samples.is_floating_point():
        return samples.float()
    if samples.dtype not in _FULL_SCALE:
        raise _wrong_type(samples.dtype)
    return samples.float() / _FULL_SCALE[samples.dtype]


def _torch_log_mel(samples: torch.Tensor, filters: torch.Tensor, padding: int) -> torch.Tensor:
    """The same by torch's functions: on other devices, and where a gradient is wanted."""
    usable = samples.detach().abs() < _LARGEST_SAMPLE  # False for NaN
    if not usable.all():
        first = (~usable).nonzero()[0].tolist()
        where = first[0] if samples.ndim == 1 else first
        raise ValueError(
            f"audio sample {where} is {samples[tuple(first)].item()}, "
            "expected a finite number, usually between -1 and 1"
        )
    if padding > 0:
        samples = F.pad(samples, (0, padding))
    window = torch.hann_window(N_FFT, device=samples.device)
    spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=window, return_complex=True)
    energies = filters @ (spectrum[..., :-1].abs() ** 2)
    log_energies = energies.clamp(min=1e-10).log10()
    return (torch.maximum(log_energies, log_energies.max() - 8.0) + 4.0) / 4.0
