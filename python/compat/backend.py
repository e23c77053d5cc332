"""Builds the wheel (PEP 517) with the standard library alone, so that installing it needs no network."""

import base64
import hashlib
import re
import zipfile
from pathlib import Path

NAME = "openai_whisper"
VERSION = "20250625+torchwhisper"  # satisfies openai-whisper==20250625
HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "torchwhisper"
INFO = f"{NAME}-{VERSION}.dist-info"

# What programs open below the folder of `whisper`, instead of asking the package.
DATA = (
    "assets/gpt2.tiktoken",
    "assets/mel_filters.npz",
    "assets/multilingual.tiktoken",
    "normalizers/english.json",
)
METADATA = """\
Metadata-Version: 2.1
Name: openai-whisper
Version: {version}
Summary: The package and the command `whisper`, run by torchwhisper
License: MIT
Requires-Python: >=3.10
Requires-Dist: torchwhisper>={torchwhisper}
Description-Content-Type: text/markdown

{description}"""
WHEEL = """\
Wheel-Version: 1.0
Generator: torchwhisper
Root-Is-Purelib: true
Tag: py3-none-any
"""
ENTRY_POINTS = """\
[console_scripts]
whisper = whisper.transcribe:cli
"""


def _metadata():
    found = re.search(r'__version__ = "(.+)"', (PACKAGE / "version.py").read_text())
    description = (HERE / "README.md").read_text()
    return METADATA.format(version=VERSION, torchwhisper=found.group(1), description=description)


def _files():
    if not PACKAGE.is_dir():
        raise FileNotFoundError(f"{PACKAGE} is missing: install this from a checkout of torchwhisper")
    yield "whisper/__init__.py", (HERE / "whisper" / "__init__.py").read_bytes()
    for name in DATA:
        yield f"whisper/{name}", (PACKAGE / name).read_bytes()
    yield f"{INFO}/METADATA", _metadata().encode()
    yield f"{INFO}/WHEEL", WHEEL.encode()
    yield f"{INFO}/entry_points.txt", ENTRY_POINTS.encode()


def _record(name, data):
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = f"{NAME}-{VERSION}-py3-none-any.whl"
    record = f"{INFO}/RECORD"
    lines = []
    with zipfile.ZipFile(Path(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in _files():
            wheel.writestr(path, data)
            lines.append(_record(path, data))
        wheel.writestr(record, "\n".join([*lines, f"{record},,", ""]))
    return name


build_editable = build_wheel  # there is nothing to edit in it


def build_sdist(sdist_directory, config_settings=None):
    raise NotImplementedError("this is a part of torchwhisper's source distribution")
