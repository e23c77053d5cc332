"""A corpus of tones for the tests, and a model that is small enough to be trained on it in seconds."""

import json
import wave
from pathlib import Path

import numpy as np
import torch
from conftest import fill

import torchwhisper.model as tm

# Windows of 1.2 s and at most 32 tokens.
DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 60,
    "n_audio_state": 32,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": 51865,
    "n_text_ctx": 32,
    "n_text_state": 32,
    "n_text_head": 2,
    "n_text_layer": 2,
}
WORDS = ("one", "two", "three", "four", "five", "six", "seven")


def write_wav(path: Path, seconds: float, frequency: float = 440.0, rate: int = 16000) -> str:
    samples = 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return str(path)


def write_manifest(folder: Path, n: int = 7, name: str = "train.jsonl") -> str:
    """Utterances of different lengths and numbers of words."""
    lines = []
    for i in range(n):
        audio = f"{name}-{i}.wav"
        write_wav(folder / audio, 0.2 + 0.1 * (i % 5), 200.0 * (1 + i % 7))
        text = " ".join(WORDS[j % 7] for j in range(i, i + 1 + i % 4))
        lines.append({"audio": audio, "text": text, "language": "en"})
    path = folder / name
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return str(path)


def small_model(seed: int = 0) -> tm.Whisper:
    model = tm.Whisper(tm.ModelDimensions(**DIMS))
    fill(model, seed)
    return model


def save_small_model(path: Path) -> str:
    model = small_model()
    torch.save({"dims": DIMS, "model_state_dict": model.state_dict()}, path)
    return str(path)
