"""Models of the Hugging Face Hub, played by a local server and the real huggingface_hub."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import torchwhisper
from torchwhisper import _hub

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789" * 4
# The hub's address is read when its library is imported; torch is not needed for what is tested here.
CHILD = f"""
import sys, types
package = types.ModuleType("torchwhisper")
package.__path__ = [{str(Path(torchwhisper.__file__).parent)!r}]
sys.modules["torchwhisper"] = package
if sys.argv[2] == "missing":
    sys.modules["huggingface_hub"] = None
from torchwhisper import _hub
try:
    print(_hub.folder(sys.argv[1], None, "Model unknown"))
except RuntimeError as error:
    print("refused", error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, `someone/whisper`, whose files lie in `server.folder`."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        owner, model, *rest = self.path.removeprefix("/api/models").split("?")[0].lstrip("/").split("/")
        known = (owner, model) == ("someone", "whisper")
        if known and not rest:
            files = [{"rfilename": path.name} for path in self.server.folder.iterdir()]
            self.send(json.dumps({"id": "someone/whisper", "sha": COMMIT, "siblings": files}).encode())
            return
        rest = rest or [""]
        file = self.server.folder / rest[-1]
        self.server.files.append(rest[-1])
        if not known or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send(file.read_bytes(), body)

    def send(self, data, body=True):
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.folder, server.files = tmp_path / "served", []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(tmp_path):
    """Asks for a model in a process of its own; gives what it printed."""

    def ask(port, name="someone/whisper", library="installed", **env):
        ours = ("HF_", "TORCHWHISPER_")
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(ours)},
            "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", **env,
        }  # fmt: skip
        command = [sys.executable, "-c", CHILD, name, library]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return ask


def test_fetches_what_is_needed_and_keeps_it(hub, ask, model):
    torchwhisper.save_model(model, hub.folder)
    (hub.folder / "pytorch_model.bin").write_bytes(b"not wanted")
    folder = ask(hub.server_port)
    assert sorted(os.listdir(folder)) == ["config.json", "generation_config.json", "model.safetensors"]
    loaded = torchwhisper.load_model(folder)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), loaded.parameters(), strict=True))
    hub.files.clear()
    assert ask(hub.server_port, TORCHWHISPER_OFFLINE="1") == folder
    assert ask(hub.server_port, HF_HUB_OFFLINE="1") == folder
    assert hub.files == []


def test_fetches_parts(hub, ask):
    hub.folder.mkdir()
    (hub.folder / "config.json").write_text("{}")
    (hub.folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "x-1", "b": "x-2", "c": "x-1"}}'
    )
    for name in ("x-1", "x-2", "x-3"):
        (hub.folder / name).write_text(name)
    folder = ask(hub.server_port)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors.index.json", "x-1", "x-2"]


def test_the_cache_serves_where_the_network_does_not(hub, ask, model):
    torchwhisper.save_model(model, hub.folder)
    folder = ask(hub.server_port)
    assert ask(closed_port()) == folder


def test_says_in_a_sentence_what_is_wrong(hub, ask):
    hub.folder.mkdir()
    offline = ask(hub.server_port, TORCHWHISPER_OFFLINE="1")
    assert offline.startswith("refused Model unknown; as a model of the Hugging Face Hub it is not in the ")
    assert ask(hub.server_port, "no-one/whisper") == (
        "refused Model unknown; nor is it a public model of the Hugging Face Hub"
    )
    assert "on the Hub it has no model.safetensors or pytorch_model.bin" in ask(hub.server_port)
    (hub.folder / "pytorch_model.bin.index.json").write_text("{}")
    assert "cannot be loaded from the Hugging Face Hub: 'weight_map'" in ask(hub.server_port)
    assert ask(hub.server_port, library="missing").endswith("pip install huggingface_hub")
    unreachable = ask(closed_port(), "no-one/whisper")
    assert "not in the cache, and the Hub cannot be reached: " in unreachable
    assert "\n" not in unreachable


def closed_port():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return closed.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/whisper-tiny", True),
        ("someone/my_model.v2", True),
        ("no-such-model", False),
        ("folder/model.pt", False),
        ("folder/model.safetensors", False),
        ("./model", False),
        ("/tmp/model", False),
        ("a/b/c", False),
        ("here/model", False),
    ],
)
def test_knows_an_id_from_a_path(tmp_path, monkeypatch, name, expected):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _hub.is_id(name) is expected
