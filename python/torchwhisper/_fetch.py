"""Brings a URL into a file: goes on where an earlier connection stopped, tries again, never waits forever.

Environment:
  TORCHWHISPER_TIMEOUT   seconds to wait for a connection and for each piece of data (default 30)
  TORCHWHISPER_RETRIES   how often to try again without progress (default 5)
  TORCHWHISPER_BACKOFF   seconds before the first new try, doubled at each further one (default 0.5)
HTTP_PROXY, HTTPS_PROXY and NO_PROXY act as everywhere in urllib.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import random
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from . import _settings

_CHUNK = 1 << 16
_SLOWEST = 1024  # bytes per second; a connection below it has stalled
_PROGRESS = 1 << 20  # bytes that make a connection worth another set of tries
_LONGEST_WAIT = 60.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_HOPELESS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOENT, errno.EISDIR, errno.EACCES)


class DownloadError(urllib.error.URLError):
    """A download that ended before all data were there. What arrived is kept, and a new call goes on."""

    def __str__(self) -> str:
        return str(self.reason)


class _Interrupted(Exception):
    """A connection that failed. `again`: whether another try may help; `wait`: the server's wish, in s."""

    def __init__(self, cause: BaseException, again: bool = True, wait: float = 0.0) -> None:
        plain = isinstance(cause, urllib.error.URLError) and not isinstance(cause, urllib.error.HTTPError)
        said = str(cause.reason if plain else cause)  # type: ignore[attr-defined]
        super().__init__(said or type(cause).__name__)
        self.cause, self.again, self.wait = cause, again, wait


class Partial:
    """A file that grows from its beginning, open for reading and writing, and the SHA-256 of its content."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.clear()

    def clear(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.size, self._digest = 0, hashlib.sha256()

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def sha256(self) -> str:
        return self._digest.hexdigest()


def fetch(url: str, partial: Partial, expected: str, bar: Callable[..., Any]) -> None:
    """Completes `partial` with the data of `url`, whose SHA-256 is `expected`.

    bar: makes a progress bar, called as tqdm.tqdm is.
    Raises RuntimeError if the data are other ones, HTTPError if the server refuses, DownloadError (a
    URLError) if it cannot be reached or the connection keeps breaking.
    """
    retries = _settings.number("TORCHWHISPER_RETRIES", 5, least=0)
    failures, farthest, started_over = 0, 0, False
    while partial.sha256() != expected:
        try:
            begin = _receive(url, partial, expected, bar)
        except _Interrupted as error:
            failures = 0 if partial.size >= farthest + _PROGRESS else failures + 1
            farthest = max(farthest, partial.size)
            if not error.again or failures > retries:
                raise _final(error, url, partial.size) from error.cause
            _wait(error, failures, url)
            continue
        if partial.sha256() == expected:
            return
        if begin == 0 or started_over:
            raise RuntimeError(
                "Model has been downloaded but the SHA256 checksum does not not match. "
                "Please retry loading the model."
            )
        # The part that was there before may belong to another file.
        partial.clear()
        started_over = True


def _receive(url: str, partial: Partial, expected: str, bar: Callable[..., Any]) -> int:
    """Reads one answer to its end; returns the place in the file at which it began."""
    timeout = _settings.number("TORCHWHISPER_TIMEOUT", 30, least=0.001)
    headers = {"Range": f"bytes={partial.size}-"} if partial.size else {}
    try:
        with _network_errors():
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except _Interrupted as error:
        if isinstance(error.cause, urllib.error.HTTPError) and error.cause.code == 416 and partial.size:
            return partial.size  # there is nothing behind what we have
        raise
    with response:
        total = _align(response, partial)
        begin = partial.size
        _check_space(partial, total)
        resumed = {"initial": begin} if begin else {}  # bars that replace tqdm's may not know it
        with bar(total=total, ncols=80, unit="iB", unit_scale=True, unit_divisor=1024, **resumed) as progress:
            for piece in _pieces(response, timeout):
                partial.append(piece)
                progress.update(len(piece))
    if total is not None and partial.size < total:
        raise _Interrupted(ConnectionError(f"the connection ended at {partial.size:,} of {total:,} bytes"))
    if total is None and partial.sha256() != expected:
        raise _Interrupted(
            ConnectionError(f"the connection ended at {partial.size:,} bytes, not the right ones")
        )
    return begin


def _align(response: Any, partial: Partial) -> int | None:
    """Empties `partial` unless the answer continues it; returns the size of the whole, if it is known."""
    if getattr(response, "status", None) == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != partial.size:
            partial.clear()
            raise _Interrupted(ConnectionError("the server sent another part of the file than was asked for"))
        return None if found[2] == "*" else int(found[2])
    if partial.size:
        partial.clear()
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _pieces(response: Any, timeout: float) -> Iterator[bytes]:
    """What arrives, as it arrives. A trickle counts as a stall, which the socket's time-out cannot see."""
    read = getattr(response, "read1", response.read)
    waited, received = 0.0, 0
    while True:
        asked = time.monotonic()
        with _network_errors():
            piece: bytes = read(_CHUNK)
        if not piece:
            return
        waited += time.monotonic() - asked
        yield piece
        received += len(piece)
        if received >= _SLOWEST * timeout:
            waited, received = 0.0, 0
        elif waited > timeout:
            raise _Interrupted(TimeoutError(f"only {received} bytes came in {timeout:g} s"))


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    """Tells errors of the network from those of the disk."""
    try:
        yield
    except urllib.error.HTTPError as error:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        wait = float(after) if after.isdecimal() else 0.0
        error.close()
        raise _Interrupted(error, error.code in _PASSING, wait) from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        hopeless = (
            isinstance(cause, (socket.gaierror, ssl.SSLCertVerificationError))
            or getattr(cause, "errno", None) in _HOPELESS
        )
        raise _Interrupted(error, not hopeless) from error


def _check_space(partial: Partial, total: int | None) -> None:
    folder = os.path.dirname(partial.file.name)
    free = shutil.disk_usage(folder).free
    if total is not None and total - partial.size > free:
        raise OSError(
            errno.ENOSPC, f"{total - partial.size:,} more bytes are needed, {free:,} are free", folder
        )


def _wait(error: _Interrupted, failures: int, url: str) -> None:
    pause = _settings.number("TORCHWHISPER_BACKOFF", 0.5, least=0) * 2 ** max(failures - 1, 0)
    pause = min(max(pause * random.uniform(0.75, 1.25), error.wait), _LONGEST_WAIT)
    warnings.warn(f"{os.path.basename(url)}: {error}; trying again in {pause:.1f} s", stacklevel=3)
    time.sleep(pause)


def _final(error: _Interrupted, url: str, size: int) -> Exception:
    cause = error.cause
    if isinstance(cause, urllib.error.HTTPError):
        return urllib.error.HTTPError(url, cause.code, f"{cause.msg}: {url}", cause.headers, None)
    kept = f"; {size:,} bytes are kept, and the next call goes on from there" if size else ""
    return DownloadError(f"{url} cannot be downloaded: {error}{kept}")
