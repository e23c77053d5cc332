"""whisper-timestamped, unmodified, gives the same words and times on the wheel of python/compat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchwhisper import _bundled

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json
import sys

import whisper
import whisper_timestamped

model = whisper_timestamped.load_model(sys.argv[1], device="cpu")
results = []
for options in (
    {},  # hooks in the running transcription
    {"naive_approach": True, "language": "en"},  # a second pass over the segments
    {"beam_size": 5, "best_of": 5, "temperature": (0.0, 0.4), "detect_disfluencies": True},
):
    results.append(whisper_timestamped.transcribe(model, sys.argv[2], **options))
print(json.dumps({"file": whisper.__file__, "results": results}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.pt"
    torch.save(_bundled.load("demo"), path)
    return path


def transcribed(checkpoint, env):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, checkpoint, ROOT / "examples" / "jfk.flac"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def differences(ours, theirs, where="result"):
    """Where two results differ; numbers that come from logits may differ in their last digits."""
    if type(ours) is not type(theirs):
        return [f"{where}: {ours!r} and {theirs!r}"]
    if isinstance(ours, dict):
        pairs = [(f"{where}.{k}", ours.get(k), theirs.get(k)) for k in {**ours, **theirs}]
    elif isinstance(ours, list) and len(ours) == len(theirs):
        pairs = [(f"{where}[{i}]", *both) for i, both in enumerate(zip(ours, theirs, strict=True))]
    elif where.endswith(("start", "end")) or not isinstance(ours, float):
        return [] if ours == theirs else [f"{where}: {ours!r} and {theirs!r}"]
    else:
        return [] if abs(ours - theirs) <= 2e-3 else [f"{where}: {ours!r} and {theirs!r}"]
    return [found for name, a, b in pairs for found in differences(a, b, name)]


def test_whisper_timestamped(compat, checkpoint):
    pytest.importorskip("whisper_timestamped", reason="whisper-timestamped is not run: it is not installed")
    reference = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    theirs, ours = transcribed(checkpoint, reference), transcribed(checkpoint, compat)
    assert "site-packages/whisper" in theirs["file"] and "torchwhisper" in ours["file"]
    assert differences(ours["results"], theirs["results"]) == []
    words = [word["text"] for segment in ours["results"][0]["segments"] for word in segment["words"]]
    assert len(words) == 22 and words[-1] == "country."
