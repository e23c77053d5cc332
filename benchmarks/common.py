"""What the benchmarks share: inputs, interleaved timing, memory, and how results are written."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED = Path(os.environ.get("TORCHWHISPER_SHARED", ROOT.parent / "shared"))
OURS = "torchwhisper"
REFERENCE = "openai-whisper"

PACKAGES = (OURS, REFERENCE, "torch", "faster-whisper", "ctranslate2", "pywhispercpp")

# The instruction sets that decide which kernels torch and oneDNN take.
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def _dims(mels: int, state: int, head: int, layers: int, text_layers: int, vocab: int) -> dict[str, int]:
    return {
        "n_mels": mels,
        "n_audio_ctx": 1500,
        "n_audio_state": state,
        "n_audio_head": head,
        "n_audio_layer": layers,
        "n_vocab": vocab,
        "n_text_ctx": 448,
        "n_text_state": state,
        "n_text_head": head,
        "n_text_layer": text_layers,
    }


# The dimensions of the official models.
SIZES = {
    "tiny": _dims(80, 384, 6, 4, 4, 51865),
    "base": _dims(80, 512, 8, 6, 6, 51865),
    "small": _dims(80, 768, 12, 12, 12, 51865),
    "medium": _dims(80, 1024, 16, 24, 24, 51865),
    "large-v3": _dims(128, 1280, 20, 32, 32, 51866),
    "turbo": _dims(128, 1280, 20, 32, 4, 51866),
}


@dataclass
class Spread:
    """Seconds (or another unit) of repeated runs."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(min(values), statistics.median(values), max(values))

    def scaled(self, factor: float) -> "Spread":
        return Spread(self.minimum * factor, self.median * factor, self.maximum * factor)

    def text(self, digits: int = 2) -> str:
        return " / ".join(f"{value:.{digits}f}" for value in (self.minimum, self.median, self.maximum))


def default_model() -> Path:
    """tiny.pt of the shared files, else the bundled model in a form that every engine reads."""
    shared = SHARED / "models" / "tiny.pt"
    if shared.exists():
        return shared
    import torch

    from torchwhisper import _bundled

    unpacked = ROOT / "build" / "demo.pt"
    unpacked.parent.mkdir(exist_ok=True)
    torch.save(_bundled.load("demo"), unpacked)
    return unpacked


def default_audio() -> list[Path]:
    """A talk, and sparse speech in noise, of the shared files; else the clip of the examples."""
    shared = [SHARED / "audio" / f"{name}.flac" for name in ("talk_en_3min", "sparse_en_noise_2min")]
    return [path for path in shared if path.exists()] or [ROOT / "examples" / "jfk.flac"]


def engine_required() -> AbstractContextManager[object]:
    """While it lasts the plain PyTorch path is an error, so that nothing is measured on the wrong path."""
    from torchwhisper import _engine

    required: AbstractContextManager[object] = _engine.require()
    return required


def nothing() -> AbstractContextManager[object]:
    return nullcontext()


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Spread]:
    """Times every run once a round, so that a machine that gets slower slows all of them."""
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: Spread.of(values) for name, values in seconds.items()}


def peak_memory_mib() -> float:
    """The largest resident size of this process so far.

    Not getrusage: its maximum survives exec, so a child would start with its parent's size.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_fresh_process(script: str, *arguments: str) -> str:
    """Runs a benchmark's own file again with other arguments and gives the last line that it prints."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().splitlines()[-1]


def cpu_flags() -> list[str]:
    """The instruction sets of this processor that decide which kernels are taken."""
    flags = _cpu_fields().get("flags", "").split()
    return [flag for flag in CPU_FLAGS if flag in flags]


def _cpu_fields() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    pairs = (line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def machine(threads: int) -> dict[str, object]:
    fields = _cpu_fields()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cpu family and model": f"{fields.get('cpu family', '?')}/{fields.get('model', '?')}",
        "flags": cpu_flags(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": versions,
    }


def describe(about: Mapping[str, object]) -> str:
    versions = about["versions"]
    assert isinstance(versions, dict)
    flags = about["flags"]
    assert isinstance(flags, list)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{about['cpu']} (family/model {about['cpu family and model']}; {' '.join(flags)}), "
        f"{about['cores']} cores, {about['threads']} threads. {named}, Python {about['python']}."
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: object, form: str = "{}") -> str:
    """A cell of a table."""
    return "-" if value is None else form.format(value)


def write_results(name: str, title: str, options: argparse.Namespace, data: object, body: str) -> None:
    """Writes NAME.json and NAME.md into the folder of results, and prints the latter."""
    options.results.mkdir(parents=True, exist_ok=True)
    about = machine(options.threads)
    payload = {"machine": about, "data": data}
    text = json.dumps(payload, indent=2, default=lambda value: asdict(value))
    (options.results / f"{name}.json").write_text(text + "\n")
    page = f"# {title}\n\n{describe(about)}\n\n{body}\n"
    (options.results / f"{name}.md").write_text(page)
    print(page)


def arguments(description: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder; default: benchmarks/results")
    return parser
