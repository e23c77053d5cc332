"""The name `whisper` for this package: by the wheel of python/compat, and by `activate` in one process."""

import csv
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JFK = ROOT / "examples" / "jfk.flac"

ALIASED = """
import sys
{start}
import whisper
import torchwhisper

assert whisper is torchwhisper
for name in ("audio", "decoding", "model", "timing", "tokenizer", "transcribe", "utils", "version"):
    assert sys.modules[f"whisper.{{name}}"] is sys.modules[f"torchwhisper.{{name}}"], name
# Not imported by `import whisper` in the original either.
assert "whisper.normalizers" not in sys.modules and "torchwhisper.normalizers" not in sys.modules
import whisper.normalizers.english
from whisper.triton_ops import median_filter_cuda
import torchwhisper.normalizers.english as english
assert whisper.normalizers.english is english is sys.modules["whisper.normalizers.english"]
assert english.__spec__.name == "torchwhisper.normalizers.english"
assert median_filter_cuda is sys.modules["torchwhisper.triton_ops"].median_filter_cuda

# The attribute is the function, the module is in sys.modules only.
import whisper.transcribe as function
from whisper.transcribe import cli, tqdm
assert function is whisper.transcribe is sys.modules["torchwhisper.transcribe"].transcribe
try:
    import whisper.no_such_module
except ModuleNotFoundError as error:
    assert error.name == "whisper.no_such_module", error.name
else:
    raise AssertionError("whisper.no_such_module was found")
"""


def python(code: str, env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_names_are_the_same_modules(compat):
    python(ALIASED.format(start=""), compat)


def test_activate_does_the_same_for_one_process(compat):
    here = {**os.environ, "PYTHONPATH": compat["PYTHONPATH"].split(os.pathsep)[1]}
    start = "import torchwhisper; torchwhisper.activate(); torchwhisper.activate()"
    python(ALIASED.format(start=start), here)


def test_activate_comes_before_another_whisper():
    import whisper

    import torchwhisper

    with pytest.raises(RuntimeError, match=re.escape(f"imported already, from {whisper.__file__}")):
        torchwhisper.activate()
    assert sys.modules["whisper"] is whisper


def test_activate_outlives_a_purge_of_the_modules(compat):
    here = {**os.environ, "PYTHONPATH": compat["PYTHONPATH"].split(os.pathsep)[1]}
    purge = "for name in [n for n in sys.modules if n.split('.')[0] == 'whisper']: del sys.modules[name]"
    start = f"import sys, torchwhisper; torchwhisper.activate()\n{purge}"
    python(ALIASED.format(start=start), here)


def test_activate_refuses_parts_of_another_whisper(compat):
    here = {**os.environ, "PYTHONPATH": compat["PYTHONPATH"].split(os.pathsep)[1]}
    code = """
import sys, whisper.normalizers, torchwhisper
for name in [n for n in sys.modules if n.split(".")[0] == "whisper" and "normalizers" not in n]:
    del sys.modules[name]
try:
    torchwhisper.activate()
except RuntimeError as error:
    assert "whisper.normalizers is imported already" in str(error)
else:
    raise AssertionError("not refused")
"""
    python(code, here)


PATCHED = """
import sys
import whisper

shown = []
class Bar:
    def __init__(self, **kwargs): shown.append(kwargs)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def update(self, n): shown.append(n)

class Replacement:
    tqdm = Bar

sys.modules["whisper.transcribe"].tqdm = Replacement
model = whisper.load_model("demo")
whisper.transcribe(model, sys.argv[1], verbose=False, language="en")
assert shown[0] == {"total": 1100, "unit": "frames", "disable": False}, shown
assert sum(shown[1:]) == 1100, shown
"""


def test_a_patched_progress_bar_acts(compat):
    command = [sys.executable, "-W", "ignore", "-c", PATCHED, JFK]
    subprocess.run(command, env=compat, check=True)


def test_metadata_is_that_of_openai_whisper(compat):
    found = python(
        "import importlib.metadata as m\n"
        "print(m.version('openai-whisper'), m.requires('openai-whisper'))\n"
        "from packaging.requirements import Requirement as R\n"
        "assert R('openai-whisper==20250625').specifier.contains(m.version('openai-whisper'))\n",
        compat,
    )
    version = (ROOT / "python/torchwhisper/version.py").read_text().split('"')[1]
    assert found.strip() == f"20250625+torchwhisper ['torchwhisper>={version}']"


@pytest.mark.parametrize(
    "name",
    [
        "assets/mel_filters.npz",
        "assets/gpt2.tiktoken",
        "assets/multilingual.tiktoken",
        "normalizers/english.json",
    ],
)
def test_files_lie_where_other_tools_open_them(compat, name):
    installed = Path(compat["PYTHONPATH"].split(os.pathsep)[0], "whisper", name)
    assert installed.read_bytes() == (ROOT / "python/torchwhisper" / name).read_bytes()


@pytest.mark.parametrize("command", ["whisper", "-m whisper", "-m whisper.transcribe"])
def test_commands(compat, command):
    folder = compat["PYTHONPATH"].split(os.pathsep)[0]
    argv = [sys.executable, "-W", "ignore", *command.split()]
    if command == "whisper":
        argv = [sys.executable, "-W", "ignore", str(Path(folder, "bin", "whisper"))]
    help_text = subprocess.run([*argv, "--help"], env=compat, check=True, capture_output=True, text=True)
    assert help_text.stdout.startswith(f"usage: {'whisper' if command == 'whisper' else 'torchwhisper'} ")


def test_the_command_transcribes(compat, tmp_path):
    script = Path(compat["PYTHONPATH"].split(os.pathsep)[0], "bin", "whisper")
    argv = [sys.executable, script, JFK, "--model", "demo", "-o", tmp_path, "-f", "txt"]
    subprocess.run(argv, env=compat, check=True, capture_output=True)
    assert "your country" in (tmp_path / "jfk.txt").read_text().lower()


def test_the_wheel_records_its_files(tmp_path):
    code = "import sys; sys.path.insert(0, '.'); import backend; print(backend.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, cwd=ROOT / "python/compat", check=True, capture_output=True, text=True)
    with zipfile.ZipFile(tmp_path / done.stdout.strip()) as wheel:
        (record,) = [name for name in wheel.namelist() if name.endswith("RECORD")]
        rows = list(csv.reader(io.StringIO(wheel.read(record).decode())))
        assert [row[0] for row in rows] == wheel.namelist()
        assert all(int(row[2]) == wheel.getinfo(row[0]).file_size for row in rows if row[0] != record)
