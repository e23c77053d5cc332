"""Milliseconds per token: random weights of official dimensions, a fixed number of tokens, on the CPU.

The end of the text is suppressed, so that every search runs to its last token.
"""

from typing import Any

import bars
import bench_transcribe
import common
import engines
import single_windows
import workers

SEARCHES = {"greedy": 1, "beam 5": 5}


def open_run(job: dict[str, Any]) -> workers.Run:
    """In a worker: what is timed."""
    decode = single_windows.open_model(job).decoder(job["tokens"], job["beam"])
    return lambda _: decode()


def rows_of(size: str, search: str, measured: dict[str, workers.Measured], tokens: int) -> list[list[str]]:
    reference = measured.get(common.REFERENCE)
    rows = []
    for name, one in measured.items():
        ratio = reference.spread.median / one.spread.median if reference else None
        same = "-"
        if reference and one.value:
            same = "yes" if one.value == reference.value else "no"
        if one.value and len(one.value) != tokens:
            raise SystemExit(f"{name} made {len(one.value)} tokens, expected {tokens}")
        milliseconds = one.spread.scaled(1000 / tokens).text(2)
        rows.append([size, search, library(name), milliseconds, common.shown(ratio, "{:.2f}x"), same])
    return rows


def library(name: str) -> str:
    return engines.BY_NAME[name].library


def main() -> None:
    if workers.serve(open_run):
        return
    parser = common.arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=["tiny", "base", "small"])
    parser.add_argument("--engines", nargs="+", choices=engines.BY_NAME, help="default: all that are here")
    parser.add_argument("--tokens", type=int, default=100, help="default: 100")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    options = parser.parse_args()
    found = engines.present(options.engines)
    data, rows, groups = {}, [], {}
    for size in options.sizes:
        for search in options.searches:
            more = {"tokens": options.tokens, "beam": SEARCHES[search]}
            jobs = [single_windows.job(engine, size, options.threads, **more) for engine in found]
            measured = single_windows.measure(__file__, jobs, options.rounds)
            rows += rows_of(size, search, measured, options.tokens)
            spreads = {library(name): one.spread for name, one in measured.items()}
            data[f"{size}, {search}"] = spreads
            groups[f"{size}\n{search}"] = {
                name: spread.scaled(1000 / options.tokens) for name, spread in spreads.items()
            }
    table = common.markdown_table(
        ["size", "search", "engine", "ms per token (min / median / max)", "speed", "same tokens"], rows
    )
    title = f"Decoder, random weights, {options.tokens} tokens"
    common.write_results("decode", title, options, data, table + bench_transcribe.notes(found, None))
    bars.draw(groups, title, "ms per token", options.results / "decode.svg")


if __name__ == "__main__":
    main()
