"""Several recordings by one model: one after the other, and some at once with their windows in one batch.

Temperature 0 without fallback, the language detected. Times are for all recordings together.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bars
import bench_transcribe
import common
import engines
import recordings
import workers
from engines import Engine, Setting

SETTINGS = {"greedy": Setting(), "beam 5": Setting(beam=5)}


def open_run(job: dict[str, Any]) -> workers.Run:
    """In a worker: what is timed."""
    import torch

    torch.set_num_threads(job["threads"])
    engine = engines.BY_NAME[job["kind"]]
    package, model = engines.load_whisper(engine, Path(job["model"]))
    setting = Setting(**job["setting"])
    options = {"temperature": 0.0, "fp16": False, "beam_size": setting.beam if setting.beam > 1 else None}

    def transcribe(paths: list[str]) -> list[str]:
        if job["at_once"] == 1:
            results = [package.transcribe(model, path, **options) for path in paths]
        else:
            results = package.transcribe(model, paths, batch_size=job["at_once"], **options)
        return [result["text"] for result in results]

    return transcribe


def jobs(found: list[Engine], setting: Setting, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for engine in found:
        for at_once in options.at_once if engine.package == "torchwhisper" else [1]:
            yield {
                "engine": engine.name if at_once == 1 else f"{engine.name}, {at_once} at once",
                "kind": engine.name,
                "at_once": at_once,
                "model": str(options.model),
                "threads": options.threads,
                "setting": asdict(setting),
            }


def main() -> None:
    if workers.serve(open_run):
        return
    parser = common.arguments(__doc__)
    bench_transcribe.add_engine_arguments(parser)
    parser.add_argument("--audio", nargs="+", type=Path, default=recordings.shared_recordings())
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 4], help="recordings; default: 1 4")
    options = parser.parse_args()
    torch_engines = [one.name for one in engines.ENGINES if one.package in ("torchwhisper", "whisper")]
    found = engines.present(options.engines or torch_engines)
    known = [recordings.recording(path) for path in options.audio]
    rows, data, groups = [], {}, {}
    for name in options.settings:
        with workers.Workers(workers.script_of(__file__), jobs(found, SETTINGS[name], options)) as running:
            measured = running.measure(options.rounds, [str(one.path) for one in known])
        groups[name] = {engine: one.spread for engine, one in measured.items()}
        first = next(iter(measured.values())).spread.median
        for engine, one in measured.items():
            error_rate = recordings.error_rate(known, one.value)
            data[f"{name}, {engine}"] = {**asdict(one), "error_rate": error_rate}
            rows.append(
                [
                    *(name, engine, one.spread.text(), f"{first / one.spread.median:.2f}x"),
                    *(common.shown(error_rate, "{:.1f} %"), f"{one.peak_mib:.0f}"),
                ]
            )
    head = ["setting", "engine", "seconds (min / median / max)", "speed", "word errors", "peak MiB"]
    title = f"{len(known)} recordings with {options.model.name}"
    common.write_results("batch", title, options, data, common.markdown_table(head, rows))
    bars.draw(groups, title, "seconds", options.results / "batch.svg")


if __name__ == "__main__":
    main()
