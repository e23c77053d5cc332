"""A C++ program that finds the installed library with CMake, and decodes what Python decodes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchwhisper
from torchwhisper import _bundled

ROOT = Path(__file__).resolve().parents[2]
JFK = ROOT / "examples" / "jfk.flac"


def run_cmake(*arguments: object) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("cmake") or Path(sys.executable).parent / "cmake"
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def cmake(*arguments: object) -> None:
    done = run_cmake(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/cpp, built the way its first lines say."""
    assert Path(torchwhisper.get_include(), "csrc/model/checkpoint.h").exists(), "run cmake --install"
    build = tmp_path_factory.mktemp("example")
    options = [f"-Dtorchwhisper_DIR={torchwhisper.get_cmake_dir()}", "-DCMAKE_BUILD_TYPE=Debug"]
    torch_root = Path(torch.__file__).parent
    cmake("-S", ROOT / "examples/cpp", "-B", build, *options, f"-DTORCHWHISPER_TORCH_ROOT={torch_root}")
    cmake("--build", build)
    return build / "transcribe_window"


def run(example: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([example, *arguments], capture_output=True, text=True, timeout=120)


def test_it_decodes_what_python_decodes(example, tmp_path):
    checkpoint = tmp_path / "demo.pt"
    torch.save(_bundled.load("demo"), checkpoint)
    done = run(example, checkpoint, JFK)
    assert done.returncode == 0, done.stderr
    tokens, language = done.stdout.splitlines()

    model = torchwhisper.load_model("demo", device="cpu")
    mel = torchwhisper.log_mel_spectrogram(str(JFK), padding=480_000)[:, :1100]
    mel = torchwhisper.pad_or_trim(mel, 3000)
    wanted = torchwhisper.decode(model, mel, fp16=False, suppress_tokens=[50258])
    assert [int(token) for token in tokens.split()] == wanted.tokens
    assert language.startswith("language 50259, ")


def test_it_says_what_is_wrong(example, tmp_path):
    assert run(example).returncode == 2
    missing = run(example, tmp_path / "none.pt", JFK)
    assert missing.returncode == 1 and missing.stderr.startswith("cannot read the checkpoint")


@pytest.mark.parametrize(("flags", "refused"), [("-O1", False), ("-static-libstdc++", True)])
def test_a_compiler_with_its_own_standard_library_is_refused(tmp_path, flags, refused):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(probe LANGUAGES CXX)\n"
        f"include({ROOT}/csrc/cmake/standard_library.cmake)\n"
    )
    done = run_cmake("-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_CXX_FLAGS={flags}")
    assert (done.returncode != 0) is refused
    assert ("links the C++ library statically" in " ".join(done.stderr.split())) is refused
