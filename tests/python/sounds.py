"""Sound files for the tests, most of them made by the ffmpeg program."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TORCHWHISPER_SHARED", ROOT.parent / "shared"))
JFK = ROOT / "examples" / "jfk.flac"  # 11 s, 44.1 kHz, stereo, 24 bit

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None,
    reason="the ffmpeg program is missing: the comparison with openai-whisper's samples is skipped",
)
needs_shared = pytest.mark.skipif(
    not (SHARED / "audio").is_dir(), reason=f"{SHARED}/audio is missing: its recordings are skipped"
)


def ffmpeg(*arguments: object) -> None:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def convert(source: Path, target: Path, *options: object) -> Path:
    ffmpeg("-i", source, *options, target)
    return target


def raw_to_wav(samples: np.ndarray, target: Path, rate: int, fmt: str = "s16le") -> Path:
    """A WAV with these very samples, [frames] or [frames, channels]."""
    raw = target.with_suffix(".raw")
    samples.tofile(raw)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    ffmpeg("-f", fmt, "-ar", rate, "-ac", channels, "-i", raw, "-c:a", f"pcm_{fmt}", target)
    return target


def rms_dbfs(difference: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(difference, dtype=np.float64)) + 1e-30))


def in_lsb(samples: np.ndarray) -> np.ndarray:
    """Steps of 16-bit samples."""
    return np.rint(samples * 32768).astype(np.int64)
