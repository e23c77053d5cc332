"""Every benchmark runs, with the smallest inputs, so that none of them rots; and their parts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
JFK = ROOT / "examples" / "jfk.flac"
BENCHMARKS = ROOT / "benchmarks"
OWN = ("torchwhisper", "openai-whisper")
PEERS = {
    "faster-whisper float32": "faster_whisper",
    "faster-whisper int8": "faster_whisper",
    "whisper.cpp f16": "pywhispercpp",
    "whisper.cpp q8_0": "pywhispercpp",
}


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where converted models go; and the benchmarks' files can be imported."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHWHISPER_BENCHMARK_MODELS", str(folder))
        patch.syspath_prepend(str(BENCHMARKS))
        yield folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as a checkpoint, which is what all engines are given."""
    import torch

    from torchwhisper import _bundled

    path = tmp_path_factory.mktemp("models") / "demo.pt"
    torch.save(_bundled.load("demo"), path)
    return path


def run(name: str, results: Path, *arguments: object) -> str:
    """What a benchmark prints."""
    command = [sys.executable, BENCHMARKS / f"bench_{name}.py", "--results", results, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((results / f"{name}.json").read_text())["machine"]["threads"] >= 1
    assert (results / f"{name}.md").read_text().strip() == done.stdout.strip()
    return done.stdout.strip()


@pytest.mark.parametrize("engine", [*OWN, *PEERS])
def test_transcribe(engine: str, demo: Path, tmp_path: Path) -> None:
    if engine in PEERS and util.find_spec(PEERS[engine]) is None:
        pytest.skip(f"{engine} is not installed (make peers)")
    if engine.startswith("faster-whisper") and util.find_spec("transformers") is None:
        pytest.skip("transformers, which converts models for faster-whisper, is not installed")
    table = run(
        *("transcribe", tmp_path / "results", "--model", demo, "--audio", JFK),
        *("--engines", engine, "--settings", "greedy", "--rounds", 1),
    )
    row = table.splitlines()[-1] if not engine.startswith("whisper.cpp") else table.splitlines()[-3]
    # The model knows the clip by heart, so whoever reads the model wrongly is found out.
    assert f"| {engine} |" in row
    assert "| 0.0 % |" in row


def test_accuracy(demo: Path, tmp_path: Path) -> None:
    table = run(
        *("accuracy", tmp_path / "results", "--model", demo, "--audio", JFK),
        *("--engines", "torchwhisper", "--settings", "greedy"),
    )
    assert "| greedy | torchwhisper | 0.0 | 0.0 |" in table


def test_batch(demo: Path, tmp_path: Path) -> None:
    table = run(
        *("batch", tmp_path / "results", "--model", demo, "--audio", JFK, JFK, "--engines", "torchwhisper"),
        *("--settings", "greedy", "--rounds", 1, "--at-once", 1, 2),
    )
    rows = [line.split(" | ") for line in table.splitlines()[-2:]]
    assert [row[1] for row in rows] == ["torchwhisper", "torchwhisper, 2 at once"]
    assert [row[4] for row in rows] == ["0.0 %", "0.0 %"]


@pytest.mark.parametrize("name", ["encoder", "decode"])
def test_parts(name: str, tmp_path: Path) -> None:
    more = ("--tokens", 4, "--searches", "greedy") if name == "decode" else ()
    arguments = ("--sizes", "tiny", "--rounds", 1, "--engines", *OWN, *more)
    table = run(name, tmp_path / "results", *arguments)
    assert all(f"| {engine} |" in table for engine in OWN)


def test_train(tmp_path: Path) -> None:
    table = run(
        *("train", tmp_path / "results", "--engines", *OWN, "--checkpointing", "block", "--device", "cpu"),
        *("--sizes", "tiny", "--batch", 1, "--tokens", 8, "--steps", 1, "--rounds", 1),
    )
    assert "| tiny | torchwhisper | block | chunked |" in table
    assert "| tiny | openai-whisper | block | whole |" in table
    if util.find_spec("matplotlib") is not None:
        for figure, said in (("train.svg", "seconds per step"), ("train_memory.svg", "peak memory, GiB")):
            assert said in (tmp_path / "results" / figure).read_text()


def test_mel(tmp_path: Path) -> None:
    run("mel", tmp_path / "results", "--audio", JFK, "--rounds", 1, "--minutes", 1)


def test_import(tmp_path: Path) -> None:
    run("import", tmp_path / "results", "--rounds", 1)


def test_pull_request(demo: Path, tmp_path: Path) -> None:
    table = run(
        *("pull_2516", tmp_path / "results", "--model", demo, "--audio", JFK),
        *("--rounds", 1, "--searches", "greedy", "--variants", "as released", "all three"),
    )
    rows = [line.split(" | ") for line in table.splitlines()[-2:]]
    assert [row[1] for row in rows] == ["as released", "all three"]
    assert all(row[-1] == "yes |" for row in rows)


def test_an_absent_peer_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import engines

    there = {"whisper": object()}
    monkeypatch.setattr(engines.util, "find_spec", there.get)
    found = engines.present(["openai-whisper", "faster-whisper int8"])
    assert [engine.name for engine in found] == ["openai-whisper"]
    assert "left out: faster-whisper int8 (not installed: make peers)" in capsys.readouterr().err


def test_a_crashed_engine_does_not_stop_the_others(tmp_path: Path) -> None:
    import workers

    script = tmp_path / "bench.py"
    script.write_text(
        f"import os, sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import workers\n"
        "def open_run(job):\n"
        "    return lambda request: os.abort() if job['engine'] == 'bad' else request + 1\n"
        "workers.serve(open_run)\n"
    )
    jobs = [{"engine": name, "threads": 1} for name in ("good", "bad")]
    with workers.Workers(str(script), jobs) as running:
        measured = running.measure(2, 1)
    assert list(measured) == ["good"]
    assert measured["good"].values == [2, 2]


def test_blocks_of_q8_0_give_the_values_back() -> None:
    import ggml_format

    values = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    values[2, :32] = 0
    content = np.frombuffer(ggml_format.blocks(values), dtype=[("scale", "<f2"), ("values", "i1", 32)])
    back = (content["scale"].astype(np.float32)[:, None] * content["values"]).reshape(values.shape)
    step = np.abs(values.reshape(-1, 32)).max(1).repeat(32).reshape(values.shape) / 127
    # Half a step of rounding, and what the scale loses in half precision.
    assert (np.abs(back - values) <= 0.5 * step + 127 * step * 2**-11 + 1e-12).all()


@pytest.mark.parametrize("multilingual", [True, False])
def test_the_tokenizer_for_the_peers_is_ours(multilingual: bool, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed")
    import converted

    from torchwhisper.tokenizer import get_tokenizer

    converted.write_tokenizer(tmp_path, multilingual, 99)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = get_tokenizer(multilingual, num_languages=99)
    for text in (" Ask not what your country can do.", "Übermäßig  viele   Wörter!", "日本語 12,5 % ♪"):
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    for token, number in ours.special_tokens.items():
        assert theirs.token_to_id(token) == number


def test_a_program_of_whisper_cpp(demo: Path, tmp_path: Path) -> None:
    program = tmp_path / "whisper-cli"
    program.write_text(
        "#!/bin/sh\n"
        'echo "[00:00:00.000 --> 00:00:08.000]   And so my fellow Americans, ask not what your country"\n'
        'echo "[00:00:08.000 --> 00:00:11.000]   can do for you, ask what you can do for your country."\n'
    )
    program.chmod(0o755)
    table = run(
        *("transcribe", tmp_path / "results", "--model", demo, "--audio", JFK, "--rounds", 1),
        *("--settings", "beam 5", "--engines", "whisper.cpp q8_0", "--whisper-cli", program),
    )
    assert "| whisper.cpp q8_0 |" in table
    assert "| 0.0 % |" in table
    assert f"{program}, a program" in table


def test_operations_of_the_encoder_are_those_of_the_table_of_sizes() -> None:
    import gemm_rates

    for size, giga in {"tiny": 36.9, "base": 87.4, "small": 344}.items():
        assert sum(gemm_rates.operations(size)) / 1e9 == pytest.approx(giga, rel=0.005)


@pytest.mark.parametrize(
    ("heard", "rate"), [("Ask not what your country can do", 0), ("ask what your country cannot do now", 43)]
)
def test_error_rate(heard: str, rate: float) -> None:
    import recordings

    said = recordings.Recording(JFK, "en", "Ask not what your country can do.")
    assert recordings.error_rate([said], [heard]) == pytest.approx(rate, abs=0.5)
