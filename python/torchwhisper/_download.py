"""Keeps downloaded checkpoints in a folder: a file there is whole and checked, or it is not there.

Data go to a temporary file of this process in the same folder, which takes the final name at once when
its checksum is known to be right. What a broken download leaves behind is copied by the next one, never
shared, so that nothing depends on file locks: where they work, they only save a second download.

Environment: TORCHWHISPER_OFFLINE=1 never asks the network; see _fetch for time-outs and tries, and
_checksum for TORCHWHISPER_VERIFY.
"""

import contextlib
import errno
import glob
import os
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from . import _checksum, _settings
from ._fetch import Partial, fetch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ABANDONED = 120.0  # seconds without a byte: longer than a download that still lives is silent
_POLL = 0.1


def download(url: str, root: str, in_memory: bool, bar: Callable[..., Any]) -> bytes | str:
    """The checkpoint of `url` in folder `root`, fetched unless a file with the right checksum is there.

    url: its last folder is the SHA-256 of the file. bar: makes a progress bar, called as tqdm.tqdm is.
    Returns the file's path, or its bytes if `in_memory`.
    Raises RuntimeError if something else has the file's name, if the data do not match the checksum, and
    if the file would have to be downloaded offline; for the rest see fetch().
    """
    os.makedirs(root, exist_ok=True)
    expected = url.split("/")[-2]
    target = os.path.join(root, os.path.basename(url))
    if os.path.exists(target) and not os.path.isfile(target):
        raise RuntimeError(f"{target} exists and is not a regular file")
    if not _is_whole(target, expected):
        damaged = os.path.exists(target)
        if _settings.flag("TORCHWHISPER_OFFLINE") and not url.startswith("file:"):
            found = "does not match its SHA256 checksum" if damaged else "is not there"
            raise RuntimeError(
                f"{target} {found}, and TORCHWHISPER_OFFLINE forbids a download: put {url} there"
            )
        if damaged:
            warnings.warn(
                f"{target} exists, but the SHA256 checksum does not match; re-downloading the file",
                stacklevel=3,
            )
        with _alone(target, expected):
            if not _is_whole(target, expected):
                _bring(url, target, expected, bar)
    if not in_memory:
        return target
    with open(target, "rb") as file:
        return file.read()


def _is_whole(target: str, expected: str) -> bool:
    return os.path.isfile(target) and _checksum.matches(target, expected)


def _bring(url: str, target: str, expected: str, bar: Callable[..., Any]) -> None:
    path = f"{_stem(target, expected)}.{uuid.uuid4().hex}.part"
    keep = False
    try:
        with open(path, "x+b") as file:
            partial = Partial(file)
            with _adopted(partial, target, expected):
                try:
                    fetch(url, partial, expected, bar)
                except BaseException as error:
                    keep = partial.size > 0 and not _is_useless(error)
                    raise
            _settle(file, path)
        _install(path, target, expected)
    finally:
        if not keep:
            _remove(path)
    for other in _partials(target, expected):  # who still writes one finds the target instead
        _remove(other)


def _stem(target: str, expected: str) -> str:
    return f"{target}.{expected[:8]}"


def _partials(target: str, expected: str) -> list[str]:
    return glob.glob(f"{glob.escape(_stem(target, expected))}.*.part")


def _is_useless(error: BaseException) -> bool:
    """Whether what arrived is wrong, or fills a disk that is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full or isinstance(error, RuntimeError)


@contextlib.contextmanager
def _adopted(partial: Partial, target: str, expected: str) -> Iterator[None]:
    """Within it, `partial` begins with the most that another download has left, if there is one.

    It is a copy: the other process may be alive. What shows no sign of life is removed, now or at the end.
    """
    donor, before = "", (0, 0)  # size and time
    for path in _partials(target, expected):
        if path != partial.file.name and (state := _state(path)) > before:
            donor, before = path, state
    if donor:
        with contextlib.suppress(FileNotFoundError, PermissionError), open(donor, "rb") as file:
            while chunk := file.read(1 << 20):
                partial.append(chunk)
        if time.time() - before[1] / 1e9 > _ABANDONED:
            _remove(donor)
    try:
        yield
    except BaseException:
        if donor and _state(donor) == before:
            _remove(donor)
        raise


def _state(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _settle(file: BinaryIO, path: str) -> None:
    file.flush()
    os.fsync(file.fileno())
    if not os.path.exists(path):  # another process took it for abandoned
        with open(path, "xb") as copy:
            file.seek(0)
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())


def _install(path: str, target: str, expected: str) -> None:
    try:
        os.replace(path, target)
    except FileNotFoundError:
        if not _is_whole(target, expected):
            raise
        return
    with contextlib.suppress(OSError):  # not every system opens folders
        folder = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    _checksum.remember(target, expected)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


@contextlib.contextmanager
def _alone(target: str, expected: str) -> Iterator[None]:
    """Lets one process at a time download, where the file system's locks work. Nothing relies on it."""
    folder, name = os.path.split(target)
    path = os.path.join(folder, f".{name}.lock")
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError:
        yield
        return
    try:
        _wait_for_lock(lock, target, expected)
        yield
    finally:
        os.close(lock)
        _remove(path)


def _wait_for_lock(lock: int, target: str, expected: str) -> None:
    """Waits as long as another process holds the lock and its download grows."""
    if fcntl is None:
        return
    told, grew, sizes = False, time.monotonic(), None
    while time.monotonic() - grew < _ABANDONED:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks
            return
        if not told:
            print(f"waiting for another process that downloads {target}", file=sys.stderr)
            told = True
        if (now := [_state(path) for path in _partials(target, expected)]) != sizes:
            grew, sizes = time.monotonic(), now
        time.sleep(_POLL)
