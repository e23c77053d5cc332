"""Two processes over gloo train as one does with the doubled batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from corpus import save_small_model, write_manifest

import torchwhisper
from torchwhisper.training import Ranks

SRC = Path(torchwhisper.__file__).parents[1]


@pytest.fixture
def corpus(tmp_path):
    # 13 windows: the last step of an epoch has no work for one of the ranks.
    return {"model": save_small_model(tmp_path / "small.pt"), "train": write_manifest(tmp_path, 13)}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def train(corpus, out, world, *more, before=""):
    """Runs the command in `world` processes; their statuses and what they said."""
    program = f"import sys; sys.argv[0] = 'torchwhisper-finetune'\n{before}\n"
    program += "from torchwhisper.training.cli import cli; cli()"
    given = ["--out", str(out), "--device", "cpu", "--steps", "10", "--learning-rate", "1e-3", *more]
    given += [item for name, value in corpus.items() for item in (f"--{name}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SRC), os.environ.get("PYTHONPATH", "")])
    if world > 1:
        environment |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *given],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], said


def weights(out):
    return torch.load(Path(out, "model.pt"), weights_only=True)["model_state_dict"]


def test_the_device_of_a_rank(monkeypatch):
    """One GPU without torchrun too, for which torch has "cuda" and wants an index."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert Ranks().device == Ranks(device="cuda").device == torch.device("cuda", 0)
    assert Ranks(device="cpu").device == torch.device("cpu")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_equal_one(corpus, tmp_path, parallel, accumulate):
    common = ("--accumulate", str(accumulate), "--checkpointing", "block")
    status, said = train(corpus, tmp_path / "one", 1, *common, "--batch-size", "4")
    assert status == [0], said
    status, said = train(corpus, tmp_path / "two", 2, *common, "--batch-size", "2", "--parallel", parallel)
    assert status == [0, 0], said
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    before = torch.load(corpus["model"], weights_only=True)["model_state_dict"]
    for name, want in expected.items():
        largest = want.abs().max()
        assert (found[name] - want).abs().max() <= 1e-5 * largest, name
    moved = max((expected[name] - before[name]).abs().max() for name in before)
    assert moved > 5e-3


def test_adapters_in_shards(corpus, tmp_path):
    """What is gathered and merged for the evaluation is what one rank has."""
    pytest.importorskip("peft", reason="PEFT is not installed: LoRA is not tested")
    common = ("--lora", "4", "--eval", corpus["train"])
    status, said = train(corpus, tmp_path / "one", 1, *common, "--batch-size", "4")
    assert status == [0], said
    status, said = train(corpus, tmp_path / "two", 2, *common, "--batch-size", "2", "--parallel", "fsdp")
    assert status == [0, 0], said
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, want in expected.items():
        assert (found[name] - want).abs().max() <= 1e-5 * want.abs().max(), name


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_resumed_ranks_equal_those_that_went_on(corpus, tmp_path, parallel):
    common = ("--batch-size", "2", "--parallel", parallel, "--eval", corpus["train"], "--save-every", "1")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(corpus, whole, 2, *common)[0] == [0, 0]
    before = "from torchwhisper.training import Trainer\nstep = Trainer._train_step\n"
    before += "def stop(self, *given):\n    step(self, *given); self._stop = self.step == 3\n"
    before += "Trainer._train_step = stop"
    status, said = train(corpus, parts, 2, *common, before=before)
    assert status == [130, 130] and "stopped after step 3" in said[0]
    status, said = train(corpus, parts, 2, *common, "--resume")
    assert status == [0, 0], said
    expected, found = weights(whole), weights(parts)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_error_of_one_rank_ends_all(corpus, tmp_path):
    before = "import os\nfrom torchwhisper.training import Dataset\nbatch = Dataset.batch\n"
    before += "def broken(self, *given):\n"
    before += "    if os.environ['RANK'] == '1': raise OSError('the disk is gone')\n"
    before += "    return batch(self, *given)\n"
    before += "Dataset.batch = broken"
    status, said = train(corpus, tmp_path / "out", 2, "--batch-size", "2", before=before)
    assert status == [1, 1]
    for text in said:
        assert "the disk is gone" in text and "Traceback" not in text


def test_a_rank_that_is_killed_ends_all(corpus, tmp_path):
    before = "import os, signal\nfrom torchwhisper.training import Trainer\nstep = Trainer._train_step\n"
    before += "def gone(self, *given):\n"
    before += "    if self.step == 2 and os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
    before += "    step(self, *given)\n"
    before += "Trainer._train_step = gone"
    status, said = train(corpus, tmp_path / "out", 2, "--batch-size", "2", before=before)
    assert status == [1, -9]
    assert "rank 0: another rank has ended" in said[0] and "Traceback" not in said[0]
    assert "warning" not in said[0]


def test_torchrun(corpus, tmp_path):
    entry = tmp_path / "entry.py"
    entry.write_text("from torchwhisper.training.cli import cli\ncli()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(free_port()), str(entry), "--out", str(tmp_path / "out"), "--steps", "2"]
    command += ["--device", "cpu", "--model", corpus["model"], "--train", corpus["train"]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SRC), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.pt").exists()
