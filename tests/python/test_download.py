"""_download() against a local server with scripted faults: the old file stays, or the new one is whole."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import pytest
from fault_server import DATA, SHA256, serving

import torchwhisper

WRONG = DATA[:-1] + bytes([DATA[-1] ^ 1])
OLD = b"an older file"
MODULE = sys.modules["torchwhisper._download"]
FETCH = sys.modules["torchwhisper._fetch"]

# Downloads in a process of its own, without the seconds that importing torch takes.
CHILD = f"""
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
package = types.ModuleType("torchwhisper")
package.__path__ = [{str(Path(torchwhisper.__file__).parent)!r}]
sys.modules["torchwhisper"] = package
from torchwhisper import _download
from tqdm import tqdm
if sys.argv[3] == "lying":
    _download.fcntl.flock = lambda *args: None
print(_download.download(sys.argv[1], sys.argv[2], False, tqdm))
"""


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies
    monkeypatch.setenv("TORCHWHISPER_TIMEOUT", "20")
    monkeypatch.setenv("TORCHWHISPER_BACKOFF", "0")
    monkeypatch.setenv("TORCHWHISPER_RETRIES", "3")
    for name in ("TORCHWHISPER_VERIFY", "TORCHWHISPER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


def download(server, root, in_memory=False):
    """The file at the end, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = torchwhisper._download(server.url, str(root), in_memory)
    assert result == (DATA if in_memory else str(root / "tiny.pt"))
    assert (root / "tiny.pt").read_bytes() == DATA
    assert visible(root) == ["tiny.pt"]
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


def fails(server, root, error, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=match) as caught:
            torchwhisper._download(server.url, str(root), False)
    return caught.value


def visible(root):
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def partials(root):
    return sorted(root.glob("*.part"))


def put_partial(root, data, name="other"):
    root.mkdir(exist_ok=True)
    path = root / f"tiny.pt.{SHA256[:8]}.{name}.part"
    path.write_bytes(data)
    return path


CUTS = [0, 1, len(DATA) // 2, len(DATA) * 999 // 1000]


class TestConnections:
    @pytest.mark.parametrize("in_memory", [False, True])
    def test_fetches_once(self, server, root, in_memory, capsys):
        assert download(server, root, in_memory) == []
        assert "100%" in capsys.readouterr().err
        assert download(server, root, in_memory) == []
        assert server.ranges == [None]

    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("cut", CUTS)
    def test_a_cut_connection_is_resumed(self, server, root, cut, reset):
        server.script = [{"cut": cut, "reset": reset}]
        (message,) = download(server, root)
        assert "trying again" in message
        if not reset:  # a reset may discard what was under way
            assert server.ranges == [None, f"bytes={cut}-" if cut else None]

    @pytest.mark.parametrize("cut", CUTS)
    def test_a_connection_that_always_breaks_leaves_the_old_file(self, server, root, cut):
        root.mkdir()
        (root / "tiny.pt").write_bytes(OLD)
        server.script = [{"cut": cut, "ignore_range": True}] * 4
        error = fails(
            server, root, urllib.error.URLError, f"the connection ended at {cut:,} of 300,000 bytes"
        )
        assert "\n" not in str(error) and server.url in str(error)
        assert (root / "tiny.pt").read_bytes() == OLD
        assert [path.stat().st_size for path in partials(root)] == ([cut] if cut else [])
        (message,) = download(server, root)
        assert "the SHA256 checksum does not match; re-downloading the file" in message
        assert server.ranges[-1] == (f"bytes={cut}-" if cut else None)

    def test_progress_earns_new_tries(self, server, root, monkeypatch):
        monkeypatch.setattr(FETCH, "_PROGRESS", 1000)
        server.script = [{"cut": end} for end in range(20_000, 300_000, 20_000)]
        download(server, root)
        assert len(server.requests) == 15

    @pytest.mark.parametrize("cut", [None, *CUTS])
    def test_no_length(self, server, root, cut):
        server.script = [{"length": False, "cut": cut} if cut is not None else {"length": False}]
        assert len(download(server, root)) == (0 if cut is None else 1)

    def test_range_ignored(self, server, root):
        server.script = [{"cut": 150_000}, {"ignore_range": True}]
        download(server, root)
        assert server.ranges == [None, "bytes=150000-"]

    def test_a_lying_range_is_not_believed(self, server, root):
        server.script = [{"cut": 150_000}, {"shift": -10}]
        download(server, root)
        assert server.ranges == [None, "bytes=150000-", None]

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_passing_refusals_are_tried_again(self, server, root, status):
        server.script = [{"status": status}] * 3
        assert len(download(server, root)) == 3
        shutil.rmtree(root)
        server.script = [{"status": status}] * 4
        assert fails(server, root, urllib.error.HTTPError, re.escape(server.url)).code == status
        assert visible(root) == []

    def test_chunks(self, server, root):
        server.script = [{"chunked": True, "cut": 150_000}, {"chunked": True}]
        download(server, root)
        assert server.ranges == [None, "bytes=150000-"]

    def test_the_server_says_when_to_come_again(self, server, root, monkeypatch):
        waits = []
        monkeypatch.setattr(FETCH.time, "sleep", waits.append)
        server.script = [{"status": 503, "retry_after": "7"}, {"status": 429, "retry_after": "1000000"}]
        download(server, root)
        assert [wait for wait in waits if wait >= 1] == [7, 60]

    def test_redirects_end(self, server, root):
        server.script = [{"redirect": True}] * 30
        assert fails(server, root, urllib.error.HTTPError, "infinite loop").code == 302

    @pytest.mark.parametrize("status", [403, 404])
    def test_other_refusals_are_not(self, server, root, status):
        server.script = [{"status": status}]
        assert fails(server, root, urllib.error.HTTPError, str(status)).code == status
        assert len(server.requests) == 1

    @pytest.mark.parametrize("kind", ["silent", "trickle"])
    def test_a_stall_ends(self, server, root, monkeypatch, kind):
        monkeypatch.setenv("TORCHWHISPER_TIMEOUT", "0.4")
        stop = threading.Event()
        step = {"trickle": 1000} if kind == "trickle" else {"wait": stop.wait}
        server.script = [step]
        messages = download(server, root)
        stop.set()
        assert re.search("timed out|only .* bytes came in 0.4 s", messages[0])

    def test_nobody_listens(self, server, root):
        server.shutdown()
        server.server_close()
        error = fails(server, root, urllib.error.URLError, "cannot be downloaded: .*refused")
        assert "\n" not in str(error) and visible(root) == []

    def test_wrong_bytes(self, server, root):
        root.mkdir()
        (root / "tiny.pt").write_bytes(OLD)
        for wrong in (WRONG, b"<html>log in</html>"):
            server.script = [{"data": wrong}]
            fails(server, root, RuntimeError, "downloaded but the SHA256 checksum does not not match. Please")
            assert visible(root) == ["tiny.pt"] and (root / "tiny.pt").read_bytes() == OLD

    def test_wrong_bytes_without_length(self, server, root):
        server.script = [{"data": WRONG, "length": False}] * 4
        fails(server, root, RuntimeError, "does not not match")
        assert visible(root) == []

    def test_a_proxy_is_asked(self, server, root, monkeypatch):
        monkeypatch.setenv("http_proxy", server.address)
        url = f"http://models.invalid/{SHA256}/tiny.pt"
        assert torchwhisper._download(url, str(root), True) == DATA
        assert server.requests == [(url, None)]


class TestPartialFiles:
    def test_goes_on_where_another_stopped(self, server, root):
        put_partial(root, DATA[:1000], "short")
        put_partial(root, DATA[:200_000], "long")
        download(server, root)
        assert server.ranges == ["bytes=200000-"]

    def test_a_whole_one_needs_no_request(self, server, root):
        put_partial(root, DATA)
        download(server, root)
        assert server.requests == []

    @pytest.mark.parametrize("data", [b"rubbish" * 9, bytes(len(DATA)), DATA + b"more"])
    def test_a_wrong_one_costs_a_download(self, server, root, data):
        put_partial(root, data)
        download(server, root)
        assert server.ranges == [f"bytes={len(data)}-", None]

    def test_that_of_another_file_is_left_alone(self, server, root):
        other = put_partial(root, b"x" * 100)
        other = other.rename(root / "tiny.pt.00000000.other.part")
        torchwhisper._download(server.url, str(root), False)
        assert server.ranges == [None] and other.exists()

    def test_failing_again_and_again_keeps_one(self, server, root):
        for i in range(3):
            server.script = [{"cut": 100_000 + i}, {"status": 404}]
            fails(server, root, urllib.error.HTTPError, "404")
            assert [path.stat().st_size for path in partials(root)] == [100_000 + i]

    def test_dying_again_and_again_fills_no_disk(self, server, root):
        past = time.time() - 3600
        for i in range(3):
            os.utime(put_partial(root, DATA[: 1000 + i], str(i)), (past, past))
        server.script = [{"status": 404}]
        fails(server, root, urllib.error.HTTPError, "404")
        assert not (root / f"tiny.pt.{SHA256[:8]}.2.part").exists()
        assert 1002 in [path.stat().st_size for path in partials(root)]

    def test_one_that_is_taken_away_is_no_loss(self, server, root):
        server.script = [{"wait": lambda: [path.unlink() for path in partials(root)]}]
        download(server, root)
        assert len(server.requests) == 1

    def test_resumes_after_a_kill(self, server, root):
        stop = threading.Event()
        server.script = [{"wait": stop.wait}]
        child = start(server, root)
        wait_for(lambda: sum(path.stat().st_size for path in partials(root)) >= 100_000)
        child.kill()
        child.communicate()
        stop.set()
        assert not (root / "tiny.pt").exists()
        (partial,) = partials(root)
        size = partial.stat().st_size
        assert partial.read_bytes() == DATA[:size]
        download(server, root)
        assert server.ranges == [None, f"bytes={size}-"]

    def test_ctrl_c(self, server, root):
        root.mkdir()
        (root / "tiny.pt").write_bytes(OLD)
        stop = threading.Event()
        server.script = [{"wait": stop.wait}]
        child = start(server, root)
        wait_for(lambda: sum(path.stat().st_size for path in partials(root)) >= 100_000)
        child.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in child.communicate(timeout=60)[1]
        stop.set()
        assert (root / "tiny.pt").read_bytes() == OLD
        download(server, root)
        assert server.ranges[-1].startswith("bytes=1")

    def test_a_full_disk_is_given_back(self, server, root, monkeypatch):
        usage = shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        put_partial(root, DATA[:100])
        error = fails(server, root, OSError, "299,900 more bytes are needed, 1,000 are free")
        assert error.errno == errno.ENOSPC
        assert len(partials(root)) <= 1


def start(server, root, lock="honest"):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url, str(root), lock],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


class TestRaces:
    def finish(self, children, root):
        for child in children:
            out, err = child.communicate(timeout=60)
            assert child.returncode == 0, err
            assert out.strip() == str(root / "tiny.pt")
        assert (root / "tiny.pt").read_bytes() == DATA
        assert visible(root) == ["tiny.pt"]

    def test_two_processes_share_a_download_where_locks_work(self, server, root):
        go_on = threading.Event()
        server.script = [{"wait": go_on.wait}]
        first = start(server, root)
        wait_for(lambda: server.requests)
        second = start(server, root)
        assert "waiting for another process" in second.stderr.readline()
        go_on.set()
        self.finish([first, second], root)
        assert len(server.requests) == 1

    def test_two_processes_where_every_lock_is_given_to_everybody(self, server, root):
        both = threading.Barrier(2, timeout=60)
        server.script = [{"wait": both.wait}, {"wait": both.wait}]
        self.finish([start(server, root, "lying") for _ in range(2)], root)
        assert len(server.requests) == 2

    def test_threads(self, server, root):
        results = []
        threads = [
            threading.Thread(
                target=lambda: results.append(torchwhisper._download(server.url, str(root), True))
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [DATA] * 6
        assert visible(root) == ["tiny.pt"] and len(server.requests) == 1

    def test_a_silent_holder_of_the_lock_is_not_waited_for(self, server, root, monkeypatch):
        fcntl = pytest.importorskip("fcntl")
        root.mkdir()
        monkeypatch.setattr(MODULE, "_ABANDONED", 0.2)
        with open(root / ".tiny.pt.lock", "w") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            download(server, root)


class TestVerification:
    @pytest.fixture
    def hashed(self, monkeypatch):
        """The number of times that a file was read to be hashed."""
        module, calls = sys.modules["torchwhisper._checksum"], []
        real = hashlib.sha256
        monkeypatch.setattr(module.hashlib, "sha256", lambda *args: calls.append(args) or real(*args))
        return calls

    def test_remembered(self, server, root, hashed):
        download(server, root)
        hashed.clear()
        download(server, root, in_memory=True)
        assert not hashed

    def test_always(self, server, root, hashed, monkeypatch):
        download(server, root)
        hashed.clear()
        monkeypatch.setenv("TORCHWHISPER_VERIFY", "always")
        download(server, root)
        assert len(hashed) == 1 and len(server.requests) == 1

    def test_a_file_that_was_put_there_is_hashed_once(self, server, root, hashed):
        root.mkdir()
        (root / "tiny.pt").write_bytes(DATA)
        download(server, root)
        download(server, root)
        assert len(hashed) == 1 and not server.requests

    def test_a_change_of_the_same_size_and_time_is_seen(self, server, root):
        download(server, root)
        target = root / "tiny.pt"
        before = target.stat()
        target.write_bytes(WRONG)
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        (message,) = download(server, root)
        assert "does not match; re-downloading" in message

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"sha256": 1}', "\0"])
    def test_a_damaged_record_is_ignored(self, server, root, content, hashed):
        download(server, root)
        (root / ".tiny.pt.verified").write_text(content)
        hashed.clear()
        download(server, root)
        assert len(hashed) == 1 and len(server.requests) == 1

    def test_the_record_of_another_model_is_ignored(self, server, root):
        download(server, root)
        record = json.loads((root / ".tiny.pt.verified").read_text())
        (root / ".tiny.pt.verified").write_text(json.dumps({**record, "sha256": "0" * 64}))
        download(server, root)
        assert len(server.requests) == 1

    def test_a_wrong_setting_is_named(self, server, root, monkeypatch):
        download(server, root)
        monkeypatch.setenv("TORCHWHISPER_VERIFY", "sometimes")
        with pytest.raises(ValueError, match="TORCHWHISPER_VERIFY is 'sometimes', expected auto or always"):
            torchwhisper._download(server.url, str(root), False)


class TestOffline:
    def test_what_is_there_is_used(self, server, root, monkeypatch):
        download(server, root)
        monkeypatch.setenv("TORCHWHISPER_OFFLINE", "1")
        download(server, root)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("old", [None, OLD])
    def test_what_is_not_is_named(self, server, root, monkeypatch, old):
        monkeypatch.setenv("TORCHWHISPER_OFFLINE", "1")
        if old:
            root.mkdir()
            (root / "tiny.pt").write_bytes(old)
        error = fails(server, root, RuntimeError, "TORCHWHISPER_OFFLINE forbids a download")
        assert server.url in str(error) and str(root / "tiny.pt") in str(error)
        assert server.requests == []

    def test_files_need_no_network(self, root, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCHWHISPER_OFFLINE", "true")
        source = tmp_path / SHA256 / "tiny.pt"
        source.parent.mkdir()
        source.write_bytes(DATA)
        assert torchwhisper._download(source.as_uri(), str(root), True) == DATA

    def test_a_file_that_is_missing(self, root, tmp_path):
        url = (tmp_path / SHA256 / "tiny.pt").as_uri()
        with pytest.raises(urllib.error.URLError, match="No such file"):
            torchwhisper._download(url, str(root), True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TIMEOUT", "0"), ("TIMEOUT", "soon"), ("RETRIES", "-1"), ("RETRIES", "nan"), ("OFFLINE", "maybe")],
)
def test_wrong_settings_are_named(server, root, monkeypatch, name, value):
    monkeypatch.setenv(f"TORCHWHISPER_{name}", value)
    with pytest.raises(ValueError, match=f"TORCHWHISPER_{name} is '{value}', expected"):
        torchwhisper._download(server.url, str(root), False)


def test_a_folder_that_takes_no_notes_is_enough(server, root, monkeypatch):
    checksum = sys.modules["torchwhisper._checksum"]
    monkeypatch.setattr(checksum, "_record_path", lambda path: str(root / "missing" / "record"))
    download(server, root)
    download(server, root)
    assert len(server.requests) == 1


def test_the_bar_can_be_replaced(server, root, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, **options):
            seen.append(options)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def update(self, count):
            seen.append(count)

    monkeypatch.setattr(torchwhisper, "tqdm", Bar)
    download(server, root)
    assert seen[0]["total"] == len(DATA) == sum(seen[1:])
