"""Says whether a file has a given SHA-256, and remembers it: gigabytes are not hashed at each start.

What was found is kept in a small hidden file beside it, with the size, the times and the inode that the
file had. TORCHWHISPER_VERIFY=always hashes nevertheless.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid

# Clocks of file systems tick every few milliseconds: a file may change twice within one tick unseen.
_TICK_NS = 50_000_000


def matches(path: str, expected: str) -> bool:
    """Whether the file `path` has the SHA-256 `expected`, given in hexadecimal."""
    identity = _identity(path)
    if not _always() and _record(path) == {"sha256": expected, **identity}:
        return True
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        return False
    _remember(path, expected, identity)
    return True


def remember(path: str, digest: str) -> None:
    """Note that the file `path`, which was just written, has this SHA-256."""
    _remember(path, digest, _identity(path))


def _always() -> bool:
    value = os.environ.get("TORCHWHISPER_VERIFY", "").strip().lower()
    if value not in ("", "auto", "always"):
        raise ValueError(f"TORCHWHISPER_VERIFY is {value!r}, expected auto or always")
    return value == "always"


def _identity(path: str) -> dict[str, int]:
    stat = os.stat(path)
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _record_path(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.verified")


def _record(path: str) -> object:
    try:
        with open(_record_path(path), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _remember(path: str, digest: str, identity: dict[str, int]) -> None:
    """Writes the record, unless a later change could leave the same times behind."""
    changed = max(identity["mtime_ns"], identity["ctime_ns"])
    age = time.time_ns() - changed
    if age < 0 or (changed % 1_000_000_000 == 0 and age < 3_000_000_000):
        return  # another machine's clock, or a file system that counts seconds
    time.sleep(max(0, _TICK_NS - age) / 1e9)
    temporary = f"{_record_path(path)}.{uuid.uuid4().hex}"
    try:
        if _identity(path) != identity:
            return
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump({"sha256": digest, **identity}, file)
        os.replace(temporary, _record_path(path))
    except OSError:  # a folder that is read-only: the next start hashes again
        with contextlib.suppress(OSError):
            os.remove(temporary)
