"""One 30 s window through the encoder: random weights of official dimensions, on the CPU.

Beside it the limit of each type: the matrix products at the rate at which torch multiplies matrices of that
type, and the attention at the float32 rate, measured in the same rounds.
"""

import statistics
from pathlib import Path
from typing import Any

import bars
import bench_transcribe
import common
import engines
import gemm_rates
import numpy as np
import single_windows
import workers
from engines import Engine


def open_run(job: dict[str, Any]) -> workers.Run:
    """In a worker: what is timed; the first run's result goes to a file."""
    if "gemm" in job:
        return gemm_rates.open_run(job)
    model = single_windows.open_model(job)
    target = Path(job["output"])

    def run(_: Any) -> None:
        features = model.encode()
        if features is not None and not target.exists():
            np.save(target, np.asarray(features, np.float32))

    return run


def limits(size: str, measured: dict[str, workers.Measured]) -> dict[str, float]:
    """Seconds that an encoder of each type would need at this machine's rates."""
    products, attention = gemm_rates.operations(size)
    state = common.SIZES[size]["n_audio_state"]
    one = 2 * 1500 * state * 4 * state
    rates = {
        name.removeprefix("GEMM "): one / statistics.median(values.values)
        for name, values in measured.items()
        if name.startswith("GEMM ")
    }
    return {kind: products / rate + attention / rates["float32"] for kind, rate in rates.items()}


def measure(size: str, found: list[Engine], options: Any) -> dict[str, workers.Measured]:
    folder = single_windows.output_folder()
    kinds = ["float32", *sorted({engine.compute for engine in found} & {"bfloat16", "int8"})]
    jobs = [gemm_rates.job(kind, size, options.threads) for kind in kinds]
    for engine in found:
        output = str(folder / f"{engine.name}.npy")
        jobs.append(single_windows.job(engine, size, options.threads, output=output))
    return single_windows.measure(__file__, jobs, options.rounds)


def difference(name: str) -> float | None:
    """The largest difference to the reference's features."""
    folder = single_windows.output_folder(keep=True)
    paths = [folder / f"{engine}.npy" for engine in (name, common.REFERENCE)]
    if not all(path.exists() for path in paths):
        return None
    ours, reference = map(np.load, paths)
    return float(np.abs(ours - reference).max())


def main() -> None:
    if workers.serve(open_run):
        return
    parser = common.arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=["tiny", "base", "small"])
    parser.add_argument("--engines", nargs="+", choices=engines.BY_NAME, help="default: all that are here")
    options = parser.parse_args()
    found = engines.present(options.engines)
    data: dict[str, Any] = {}
    rows, groups = [], {}
    for size in options.sizes:
        measured = measure(size, found, options)
        limit = limits(size, measured)
        reference = measured.get(common.REFERENCE)
        spreads = {}
        for engine in found:
            if engine.name not in measured:
                continue
            spread = spreads[engine.library] = measured[engine.name].spread
            ratio = reference.spread.median / spread.median if reference else None
            bound = limit.get(engine.compute)
            rows.append(
                [
                    *(size, engine.library, spread.scaled(1000).text(0), common.shown(ratio, "{:.2f}x")),
                    common.shown(bound and 1000 * bound, "{:.0f}"),
                    common.shown(bound and spread.median / bound, "{:.2f}"),
                    common.shown(difference(engine.name), "{:.1e}"),
                ]
            )
        data[size] = {"seconds": spreads, "limits in seconds": limit}
        groups[size] = {name: spread.scaled(1000) for name, spread in spreads.items()}
    head = [
        "size",
        "engine",
        "ms per window (min / median / max)",
        "speed",
        "limit of the type, ms",
        "of the limit",
    ]
    table = common.markdown_table([*head, "largest difference"], rows)
    body = table + bench_transcribe.notes(found, None)
    common.write_results("encoder", "Encoder, random weights", options, data, body)
    bars.draw(groups, "Encoder, random weights", "ms per window", options.results / "encoder.svg")


if __name__ == "__main__":
    main()
