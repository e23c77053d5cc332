"""Whole transcriptions: torchwhisper beside openai-whisper, same audio, same run, fp32 on the CPU.

Speed is measured in one process, memory in a process for each engine and setting. Before the timing each
engine transcribes once, so that compilers (numba) and packed weights are warm.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "beam 5": {"beam_size": 5},
    "word timestamps": {"word_timestamps": True},
}
Transcribe = Callable[..., dict[str, Any]]


def open_ours(model_path: Path) -> Transcribe:
    import torchwhisper

    model = torchwhisper.load_model(str(model_path), device="cpu")

    def transcribe(audio: str, **options: Any) -> dict[str, Any]:
        with common.engine_required():
            result: dict[str, Any] = torchwhisper.transcribe(model, audio, fp16=False, **options)
        return result

    return transcribe


def open_reference(model_path: Path) -> Transcribe:
    import whisper

    return partial(whisper.transcribe, whisper.load_model(str(model_path), device="cpu"), fp16=False)


# A peer is one more line here: a function that loads the model and returns transcribe(audio, **options).
ENGINES: dict[str, Callable[[Path], Transcribe]] = {
    common.OURS: open_ours,
    common.REFERENCE: open_reference,
}


@dataclass
class Row:
    setting: str
    engine: str
    seconds: common.Spread
    peak_mib: float | None
    ratio: float  # to the reference, of the medians; above 1 is faster
    same_text: bool


def run(transcribe: Transcribe, audio: Path, setting: str) -> dict[str, Any]:
    torch.manual_seed(0)
    return transcribe(str(audio), **SETTINGS[setting])


def print_peak_memory(engine: str, setting: str, model: Path, audio: Path) -> None:
    run(ENGINES[engine](model), audio, setting)
    print(json.dumps({"peak_mib": common.peak_memory_mib()}))


def peak_memory(engine: str, setting: str, options: argparse.Namespace) -> float:
    line = common.in_fresh_process(
        __file__,
        *("--memory-of", engine, setting, "--threads", str(options.threads)),
        *("--model", str(options.model), "--audio", str(options.audio)),
    )
    return float(json.loads(line)["peak_mib"])


def measure(setting: str, engines: dict[str, Transcribe], options: argparse.Namespace) -> list[Row]:
    texts: dict[str, str] = {}

    def timed(name: str) -> None:
        texts[name] = run(engines[name], options.audio, setting)["text"]

    for name in engines:
        timed(name)
    seconds = common.interleaved({name: partial(timed, name) for name in engines}, options.rounds)
    reference = seconds[common.REFERENCE].median
    return [
        Row(
            setting,
            name,
            seconds[name],
            None if options.no_memory else peak_memory(name, setting, options),
            reference / seconds[name].median,
            texts[name] == texts[common.REFERENCE],
        )
        for name in engines
    ]


def table(rows: list[Row]) -> str:
    return common.markdown_table(
        ["setting", "engine", "seconds (min / median / max)", "speed", "peak MiB", "same text"],
        [
            [
                row.setting,
                row.engine,
                row.seconds.text(),
                f"{row.ratio:.2f}x",
                "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
                "yes" if row.same_text else "no",
            ]
            for row in rows
        ],
    )


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--model", type=Path, default=common.default_model())
    parser.add_argument("--audio", type=Path, default=common.default_audio())
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--no-memory", action="store_true", help="skip the memory runs")
    parser.add_argument("--memory-of", nargs=2, metavar=("ENGINE", "SETTING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_peak_memory(*options.memory_of, options.model, options.audio)
        return
    engines = {name: load(options.model) for name, load in ENGINES.items()}
    rows = [row for setting in options.settings for row in measure(setting, engines, options)]
    title = f"{options.audio.name} with {options.model.name}, fp32"
    common.write_results("transcribe", title, common.machine(options.threads), rows, table(rows))


if __name__ == "__main__":
    main()
