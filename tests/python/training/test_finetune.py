"""The command `torchwhisper-finetune`: a run, its end in all ways, and going on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from corpus import save_small_model, write_manifest

import torchwhisper
from torchwhisper.training import (
    Dataset,
    Ranks,
    Trainer,
    TrainingOptions,
    checkpoint,
    cli,
    read_manifest,
)

# The name in the package is that of the function.
evaluate = sys.modules["torchwhisper.training.evaluate"]
SRC = Path(torchwhisper.__file__).parents[1]


@pytest.fixture
def corpus(tmp_path):
    return {
        "model": save_small_model(tmp_path / "small.pt"),
        "train": write_manifest(tmp_path, 13),
        "eval": write_manifest(tmp_path, 3, "eval.jsonl"),
        "out": str(tmp_path / "out"),
    }


def arguments(corpus, *more, **changed):
    named = {"batch_size": 2, "device": "cpu", "learning_rate": 1e-3, "epochs": 2, **corpus, **changed}
    listed = [item for name, value in named.items() for item in (f"--{name.replace('_', '-')}", str(value))]
    return [*listed, *more]


def run(monkeypatch, capfd, *given):
    """In this process; the status and what was said."""

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(sys, "argv", ["torchwhisper-finetune", *given])
    monkeypatch.setattr(os, "_exit", leave)
    try:
        cli.cli()
    except SystemExit as left:
        return left.code, capfd.readouterr().err
    return 0, capfd.readouterr().err


def start(*given, before=""):
    """In a process of its own, which runs the line `before` first; with as many threads, which decide the
    last bits of a sum."""
    program = f"import sys; sys.argv[0] = 'torchwhisper-finetune'\n{before}\n"
    program += "from torchwhisper.training.cli import cli; cli()"
    paths = [str(SRC), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", program, *given],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(out):
    return [json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()]


def steps(out):
    return [row for row in rows(out) if "loss" in row]


def weights(path):
    return torch.load(path, weights_only=True)["model_state_dict"]


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_run(monkeypatch, capfd, corpus):
    more = ["--checkpointing", "block", "--spec-augment", "--pack", "--export", "hugging_face"]
    status, said = run(monkeypatch, capfd, *arguments(corpus, *more, epochs=6))
    assert status == 0, said
    out = Path(corpus["out"])
    done = steps(out)
    assert [row["step"] for row in done] == list(range(1, len(done) + 1))
    assert done[-1]["loss"] < done[0]["loss"] / 1.5
    assert "WER" in said and "100%" in said
    scores = [row for row in rows(out) if "wer" in row]
    assert len(scores) == 6
    best = torchwhisper.load_model(str(out / "model.pt"))
    base = torchwhisper.load_model(corpus["model"])
    assert not torch.equal(best.encoder.conv1.weight, base.encoder.conv1.weight)
    exported = torchwhisper.load_model(str(out / "hugging_face"))
    assert torch.equal(exported.encoder.conv1.weight, best.encoder.conv1.weight)
    assert len(os.listdir(out / "checkpoints")) == 2


def test_options_that_leave_weights_alone(monkeypatch, capfd, corpus):
    assert run(monkeypatch, capfd, *arguments(corpus, "--freeze-encoder", epochs=1))[0] == 0
    before, after = weights(corpus["model"]), weights(Path(corpus["out"], "model.pt"))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)


def test_lora(monkeypatch, capfd, corpus):
    pytest.importorskip("peft", reason="PEFT is not installed: LoRA is not tested")
    more = ["--checkpointing", "selective"]
    status, said = run(monkeypatch, capfd, *arguments(corpus, *more, epochs=1, lora=4))
    assert status == 0, said
    before, after = weights(corpus["model"]), weights(Path(corpus["out"], "model.pt"))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and all(name.endswith(("query.weight", "value.weight")) for name in changed)
    kept = checkpoint.read(checkpoint.latest(os.path.join(corpus["out"], "checkpoints")))
    assert all("lora_" in name for name in kept["parameters"])


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_bf16(monkeypatch, capfd, corpus, precision):
    assert run(monkeypatch, capfd, *arguments(corpus, epochs=4, precision=precision))[0] == 0
    done = steps(corpus["out"])
    assert done[-1]["loss"] < done[0]["loss"]


def test_a_resumed_run_is_the_run_that_was_not_interrupted(monkeypatch, capfd, corpus, tmp_path):
    more = ["--spec-augment", "--pack", "3", "--stochastic-depth", "0.2"]
    whole = {**corpus, "out": str(tmp_path / "whole")}
    assert run(monkeypatch, capfd, *arguments(whole, *more, save_every=1))[0] == 0

    before = "from torchwhisper.training import Trainer\n"
    before += "step = Trainer._train_step\n"
    before += "def stop(self, *given):\n    step(self, *given); self._stop = self.step == 2\n"
    before += "Trainer._train_step = stop"
    process = start(*arguments(corpus, *more, save_every=1), before=before)
    assert "stopped after step 2; --resume goes on" in process.communicate()[1]
    assert process.returncode == 130
    status, said = run(monkeypatch, capfd, *arguments(corpus, *more, "--resume", save_every=1))
    assert status == 0 and "going on after step 2" in said
    assert_same_weights(Path(whole["out"], "model.pt"), Path(corpus["out"], "model.pt"))
    assert [row["loss"] for row in steps(whole["out"])] == [row["loss"] for row in steps(corpus["out"])]


def test_killed_while_it_saves(monkeypatch, capfd, corpus, tmp_path):
    """kill -9 with half a checkpoint on the disk: the one before it counts."""
    whole = {**corpus, "out": str(tmp_path / "whole")}
    assert run(monkeypatch, capfd, *arguments(whole, save_every=2))[0] == 0
    before = "import os, signal, torch\n"
    before += "save, n = torch.save, [0]\n"
    before += "def half(content, path):\n"
    before += "    if isinstance(content, dict) and content.get('step') == 6:\n"
    before += "        open(path, 'wb').write(b'half')\n"
    before += "        os.kill(os.getpid(), signal.SIGKILL)\n"
    before += "    save(content, path)\n"
    before += "torch.save = half"
    process = start(*arguments(corpus, save_every=2), before=before)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    folder = Path(corpus["out"], "checkpoints")
    assert any(path.suffix == ".tmp" for path in folder.iterdir())
    model, log = (Path(corpus["out"], name) for name in ("model.pt", "log.jsonl"))
    left = model.with_name(f"{model.name}.123.tmp")
    left.touch()
    log.write_text(log.read_text() + '{"step": 6, "lo')
    status, said = run(monkeypatch, capfd, *arguments(corpus, "--resume", save_every=2))
    assert status == 0 and "going on after step 4" in said
    assert_same_weights(Path(whole["out"], "model.pt"), model)
    assert not any(path.suffix == ".tmp" for path in folder.iterdir()) and not left.exists()
    timeless = [[row | {"seconds": 0} for row in rows(out)] for out in (whole["out"], corpus["out"])]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("event", ["stop", "error"])
def test_ended_in_an_evaluation(monkeypatch, capfd, corpus, tmp_path, event):
    """The steps before it are kept, and the resumed run evaluates."""
    whole = {**corpus, "out": str(tmp_path / "whole")}
    assert run(monkeypatch, capfd, *arguments(whole))[0] == 0
    decode, stop = evaluate.decode, Trainer._between_batches

    def failing(*given):
        raise RuntimeError("the disk is gone")

    def stopping(self):
        self._stop = 1
        stop(self)

    if event == "stop":
        monkeypatch.setattr(Trainer, "_between_batches", stopping)
    else:
        monkeypatch.setattr(evaluate, "decode", failing)
    status, said = run(monkeypatch, capfd, *arguments(corpus))
    assert (status, "stopped in the evaluation of step 7" in said) == (
        (130, True) if event == "stop" else (1, False)
    )
    monkeypatch.setattr(Trainer, "_between_batches", stop)
    monkeypatch.setattr(evaluate, "decode", decode)
    status, said = run(monkeypatch, capfd, *arguments(corpus, "--resume"))
    assert status == 0 and "going on after step 7" in said
    assert_same_weights(Path(whole["out"], "model.pt"), Path(corpus["out"], "model.pt"))
    timeless = [[row | {"seconds": 0} for row in rows(out)] for out in (whole["out"], corpus["out"])]
    assert timeless[0] == timeless[1]


def test_a_damaged_checkpoint_is_named(monkeypatch, capfd, corpus):
    assert run(monkeypatch, capfd, *arguments(corpus, epochs=1))[0] == 0
    path = Path(checkpoint.latest(os.path.join(corpus["out"], "checkpoints")))
    path.write_bytes(path.read_bytes()[:1000])
    status, said = run(monkeypatch, capfd, *arguments(corpus, "--resume", epochs=1))
    assert status == 1 and f"{path} is damaged, remove it" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(monkeypatch, capfd, corpus, number):
    process = start(*arguments(corpus, epochs=1000))
    log = Path(corpus["out"], "log.jsonl")
    while not log.exists() or not log.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    kept = checkpoint.read(checkpoint.latest(os.path.join(corpus["out"], "checkpoints")))
    assert kept["step"] == steps(corpus["out"])[-1]["step"]


MISTAKES = {
    "no such manifest": (lambda c: c.update(train="/nowhere.jsonl"), "/nowhere.jsonl"),
    "no such model": (lambda c: c.update(model="huge"), "huge not found"),
    "bad line": (lambda c: Path(c["train"]).write_text("{}\n"), "line 1: no 'audio'"),
    "bad audio": (lambda c: Path(f"{c['train']}-4.wav").write_bytes(b"no"), "line 5: cannot"),
    "too long a label": (
        lambda c: Path(c["train"]).write_text(
            json.dumps({"audio": "train.jsonl-1.wav", "language": "en", "text": "word " * 40})
        ),
        "line 1: the label has",
    ),
    "no language": (
        lambda c: Path(c["train"]).write_text('{"audio": "train.jsonl-1.wav", "text": "word"}'),
        "line 1: no language",
    ),
    "bad eval": (lambda c: Path(c["eval"]).write_text("[]"), "eval.jsonl, line 1"),
    "batch": (lambda c: c.update(batch_size=0), "--batch-size is 0"),
    "probability": (lambda c: c.update(prompts=1.5), "--prompts is 1.5"),
    "depth": (lambda c: c.update(stochastic_depth=1), "--stochastic-depth is 1.0"),
    "warm-up": (lambda c: c.update(warmup=-1), "--warmup is -1"),
    "gap": (lambda c: c.update(pack_gap="inf"), "--pack-gap is inf"),
    "rate": (lambda c: c.update(learning_rate="inf"), "--learning-rate is inf"),
    "seed": (lambda c: c.update(seed=-1), "--seed is -1"),
    "threads": (lambda c: c.update(threads=-1), "--threads is -1"),
    "folder": (lambda c: c.update(out=c["train"]), "train.jsonl: File exists"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_a_sentence(monkeypatch, capfd, corpus, mistake):
    make, expected = MISTAKES[mistake]
    make(corpus)
    status, said = run(monkeypatch, capfd, *arguments(corpus))
    assert status == 1
    assert expected in said and "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    assert not Path(corpus["out"], "log.jsonl").exists()


def test_a_device_that_is_not_there(monkeypatch, capfd, corpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, said = run(monkeypatch, capfd, *arguments(corpus, device="cuda"))
    assert status == 1 and "the device is cuda, and PyTorch finds none" in said


def test_an_export_that_cannot_be_written_is_told_before_the_training(monkeypatch, capfd, corpus):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda _: None)
    status, said = run(monkeypatch, capfd, *arguments(corpus, "--export", "hugging_face"))
    assert status == 1 and "--export needs safetensors" in said
    assert not Path(corpus["out"]).exists()


def test_warnings_are_sentences(monkeypatch, capfd, corpus):
    broken = Path(corpus["train"]).with_name("train.jsonl-1.wav")
    broken.write_bytes(broken.read_bytes()[:-1000])
    status, said = run(monkeypatch, capfd, *arguments(corpus, epochs=1))
    assert status == 0
    assert f"torchwhisper-finetune: warning: '{broken}' may be incomplete" in said


def test_a_loss_that_is_no_number_ends_the_run(monkeypatch, capfd, corpus):
    """With the checkpoint before it, and without a model of NaN."""
    given = arguments(corpus, "--save-every", "1", "--warmup", "0", learning_rate=1e30)
    status, said = run(monkeypatch, capfd, *given)
    assert status == 1 and "the loss is nan" in said and "try a lower rate" in said
    assert not Path(corpus["out"], "model.pt").exists()
    assert [row["step"] for row in steps(corpus["out"])] == [1]


def test_a_recording_that_goes_away_later(monkeypatch, capfd, corpus):
    """The state before it is saved, and the line is named."""
    gone = Path(corpus["train"]).with_name("train.jsonl-12.wav")
    load = torchwhisper.training.Utterance.load

    def broken(self):
        if self.audio == str(gone):
            raise torchwhisper.training.ManifestError(f"{self.where}: cannot read {gone}: gone")
        return load(self)

    monkeypatch.setattr(torchwhisper.training.Utterance, "load", broken)
    status, said = run(monkeypatch, capfd, *arguments(corpus))
    assert status == 1 and "line 13: cannot read" in said
    done = len(steps(corpus["out"])) if Path(corpus["out"], "log.jsonl").exists() else 0
    kept = checkpoint.read(checkpoint.latest(os.path.join(corpus["out"], "checkpoints")))
    assert kept["step"] == done


def test_a_finished_run_is_not_overwritten(monkeypatch, capfd, corpus):
    assert run(monkeypatch, capfd, *arguments(corpus, epochs=1))[0] == 0
    status, said = run(monkeypatch, capfd, *arguments(corpus, epochs=1))
    assert status == 1 and "holds a run already: add --resume" in said
    before = steps(corpus["out"])
    assert run(monkeypatch, capfd, *arguments(corpus, "--resume", epochs=1))[0] == 0
    assert steps(corpus["out"]) == before
    status, said = run(monkeypatch, capfd, *arguments(corpus, "--resume", epochs=1, seed=3))
    assert status == 1 and "seed = 0, now it is 3" in said
    Path(corpus["train"]).write_text(Path(corpus["train"]).read_text() + "\n")
    status, said = run(monkeypatch, capfd, *arguments(corpus, "--resume", epochs=1))
    assert status == 1 and "the SHA-256 of --train = " in said


def test_a_trainer_does_not_mix_runs(corpus):
    model = torchwhisper.load_model(corpus["model"])
    utterances = read_manifest(corpus["train"])
    dataset = Dataset(utterances, [0.5] * len(utterances), model.dims)
    options = TrainingOptions(steps=1, batch_size=1)
    Trainer(model, dataset, corpus["out"], options, ranks=Ranks(device="cpu")).run()
    with pytest.raises(ValueError, match=r"out holds a run already: resume\(\) it"):
        Trainer(model, dataset, corpus["out"], options, ranks=Ranks(device="cpu")).run()


def test_minutes_end_a_run(monkeypatch, capfd, corpus):
    given = arguments(corpus, "--minutes", "0.03")
    given[given.index("--epochs") + 1] = "100000"
    began = time.monotonic()
    assert run(monkeypatch, capfd, *given)[0] == 0
    assert time.monotonic() - began < 60
    assert steps(corpus["out"])[-1]["rate"] < 1e-3
