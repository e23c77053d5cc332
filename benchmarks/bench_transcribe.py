"""Whole transcriptions, from the file to the text, by torchwhisper and its peers on the CPU.

Each engine has a process of its own for each setting; they take turns, one run each in a round, after one
warm-up. The peak memory is that of the same process. All get the same options: temperature 0, the language,
the beam, previous text as the prompt, no voice detection, no batches.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bars
import common
import engines
import recordings
import whisper_cpp
import workers
from engines import Engine, Setting

SETTINGS = {
    "greedy": Setting(),
    "beam 5": Setting(beam=5),
    "word timestamps": Setting(words=True),
    "CLI defaults": Setting(beam=5, fallback=True),
}


@dataclass
class Row:
    audio: str
    setting: str
    engine: str
    seconds: common.Spread
    ratio: float | None  # to the reference, of the medians; above 1 is faster
    error_rate: float | None  # per cent of words
    peak_mib: float
    same_text: bool | None  # as the reference


def open_run(job: dict[str, Any]) -> workers.Run:
    """In a worker: what is timed."""
    engine = engines.BY_NAME[job["engine"]]
    transcribe = engines.open_transcriber(engine, Path(job["model"]), job["threads"], job["whisper_cli"])
    setting = Setting(**job["setting"])
    return lambda audio: transcribe(audio["path"], setting, audio["language"])


def start(found: Sequence[Engine], setting: Setting, options: argparse.Namespace) -> workers.Workers:
    jobs = [
        {
            "engine": engine.name,
            "model": str(engines.model_for(engine, options.model)),
            "threads": options.threads,
            "setting": asdict(setting),
            "whisper_cli": options.whisper_cli,
        }
        for engine in found
        if engine.does(setting)
    ]
    return workers.Workers(workers.script_of(__file__), jobs)


def request(recording: recordings.Recording) -> dict[str, str]:
    return {"path": str(recording.path), "language": recording.language}


def measure(name: str, audio: Path, found: Sequence[Engine], options: argparse.Namespace) -> list[Row]:
    recording = recordings.recording(audio)
    with start(found, SETTINGS[name], options) as running:
        measured = running.measure(options.rounds, request(recording))
    reference = measured.get(common.REFERENCE)
    return [
        Row(
            audio.name,
            name,
            engine,
            one.spread,
            reference.spread.median / one.spread.median if reference else None,
            recordings.error_rate([recording], [one.value]),
            one.peak_mib,
            one.value.split() == reference.value.split() if reference else None,
        )
        for engine, one in measured.items()
    ]


def table(rows: Sequence[Row]) -> str:
    head = ["recording", "setting", "engine", "seconds (min / median / max)", "speed", "word errors"]
    return common.markdown_table(
        [*head, "peak MiB", "same text"],
        [
            [
                *(row.audio, row.setting, row.engine, row.seconds.text()),
                common.shown(row.ratio, "{:.2f}x"),
                common.shown(row.error_rate, "{:.1f} %"),
                f"{row.peak_mib:.0f}",
                {True: "yes", False: "no", None: "-"}[row.same_text],
            ]
            for row in rows
        ],
    )


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=common.default_model(), help="an OpenAI checkpoint")
    parser.add_argument("--engines", nargs="+", choices=engines.BY_NAME, help="default: all that are here")
    parser.add_argument("--whisper-cli", metavar="PROGRAM", help="whisper.cpp's program, not the package")


def notes(found: Sequence[Engine], whisper_cli: str | None) -> str:
    """How whisper.cpp was built, if it took part."""
    if not any(engine.package == "pywhispercpp" for engine in found):
        return ""
    return f"\n\nwhisper.cpp: {whisper_cpp.how_built(whisper_cli)}."


def main() -> None:
    if workers.serve(open_run):
        return
    parser = common.arguments(__doc__)
    add_engine_arguments(parser)
    parser.add_argument("--audio", nargs="+", type=Path, default=common.default_audio())
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    found = engines.present(options.engines, options.whisper_cli)
    rows: list[Row] = []
    for audio in options.audio:
        for name in options.settings:
            rows += measure(name, audio, found, options)
            write(rows, found, options)  # all of them take an hour, and may be stopped


def write(rows: Sequence[Row], found: Sequence[Engine], options: argparse.Namespace) -> None:
    title = f"Transcriptions with {options.model.name}"
    body = table(rows) + notes(found, options.whisper_cli)
    common.write_results("transcribe", title, options, rows, body)
    groups: dict[str, dict[str, common.Spread]] = {}
    for row in rows:
        groups.setdefault(f"{row.audio}\n{row.setting}", {})[row.engine] = row.seconds
    bars.draw(groups, title, "seconds", options.results / "transcribe.svg")


if __name__ == "__main__":
    main()
