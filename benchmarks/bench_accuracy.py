"""Word errors of torchwhisper and its peers on all recordings taken together, greedy and with beam 5."""

from pathlib import Path

import bench_transcribe
import common
import engines
import recordings

_SETTINGS = ("greedy", "beam 5")


def main() -> None:
    parser = common.arguments(__doc__, rounds=0)
    bench_transcribe.add_engine_arguments(parser)
    parser.add_argument("--audio", nargs="+", type=Path, default=recordings.shared_recordings())
    parser.add_argument("--settings", nargs="+", choices=_SETTINGS, default=_SETTINGS)
    options = parser.parse_args()
    found = engines.present(options.engines, options.whisper_cli)
    known = [one for one in map(recordings.recording, options.audio) if one.text is not None]
    rows, data = [], {}
    for name in options.settings:
        heard: dict[str, list[str]] = {}
        with bench_transcribe.start(found, bench_transcribe.SETTINGS[name], options) as running:
            for one in known:
                for engine, text in running.values(bench_transcribe.request(one)).items():
                    heard.setdefault(engine, []).append(text)
        for engine, texts in heard.items():
            alone = [recordings.error_rate([one], [text]) for one, text in zip(known, texts, strict=True)]
            together = recordings.error_rate(known, texts)
            data[f"{name}, {engine}"] = {"all": together, **dict(zip(_names(known), alone, strict=True))}
            rows.append([name, engine, *(common.shown(rate, "{:.1f}") for rate in (together, *alone))])
    table = common.markdown_table(["setting", "engine", "all", *_names(known)], rows)
    title = f"Word errors in per cent with {options.model.name}, temperature 0"
    common.write_results(
        "accuracy", title, options, data, table + bench_transcribe.notes(found, options.whisper_cli)
    )


def _names(known: list[recordings.Recording]) -> list[str]:
    return [one.path.stem for one in known]


if __name__ == "__main__":
    main()
