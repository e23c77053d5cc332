"""openai-whisper 20250625's own tests, unmodified, against the wheel of python/compat.

They come from TORCHWHISPER_UPSTREAM_TESTS, the `tests` folder of openai-whisper's sources, or else from the
source distribution, which pip fetches once into build/.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "20250625"

# The release has no conftest.py, and its test of the model `tiny` would download it.
CONFTEST = """
import os

import whisper

whisper._MODELS["tiny"] = os.environ["TINY_URL"]


def pytest_configure(config):
    import torchwhisper

    assert whisper is torchwhisper
    config.addinivalue_line("markers", "requires_cuda: needs a GPU")
"""
TESTS = {"test_audio.py", "test_normalizer.py", "test_timing.py", "test_tokenizer.py", "test_transcribe.py"}


@pytest.fixture(scope="module")
def sources() -> Path:
    """The folder of openai-whisper's tests."""
    if given := os.environ.get("TORCHWHISPER_UPSTREAM_TESTS"):
        return Path(given)
    kept = ROOT / "build" / f"openai_whisper-{RELEASE}"
    if not kept.exists():
        fetched = ROOT / "build" / "upstream"
        # fmt: off
        command = [
            sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
            "--no-build-isolation", "--no-binary", "openai-whisper", "-d", fetched,
            f"openai-whisper=={RELEASE}",
        ]
        # fmt: on
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"openai-whisper's tests are not run: {done.stderr.strip().splitlines()[-1]}")
        with tarfile.open(next(fetched.glob("*.tar.gz"))) as archive:
            archive.extractall(kept.parent, filter="data")
    return kept / "tests"


def test_upstream_tests_pass(sources, compat, shared, tmp_path):
    tiny = shared("models/tiny.pt")
    served = tmp_path / "served" / hashlib.sha256(tiny.read_bytes()).hexdigest() / "tiny.pt"
    served.parent.mkdir(parents=True)
    served.symlink_to(tiny)
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in TESTS:
        shutil.copy(sources / name, tests)
    shutil.copy(ROOT / "examples" / "jfk.flac", tests)
    (tests / "conftest.py").write_text(CONFTEST)

    env = {**compat, "TINY_URL": served.as_uri(), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    selection = ["-k", "not test_transcribe or test_transcribe[tiny]", "-m", "not requires_cuda"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tests, *selection]
    done = subprocess.run([*command, tests], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b18 passed", done.stdout), done.stdout
    assert (tmp_path / "cache/whisper/tiny.pt").exists()
