"""How long `import torchwhisper` takes beside `import torch` and `import whisper`, each in a new process."""

import subprocess
import sys

import common

MODULES = {"torch": "torch", common.OURS: "torchwhisper", common.REFERENCE: "whisper"}
SCRIPT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds_to_import(module: str) -> float:
    command = [sys.executable, "-c", SCRIPT.format(module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    options = common.arguments(__doc__, rounds=7).parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in MODULES}
    for module in MODULES.values():
        seconds_to_import(module)  # fills the page cache
    for _ in range(options.rounds):
        for name, module in MODULES.items():
            seconds[name].append(seconds_to_import(module))
    spreads = {name: common.Spread.of(values) for name, values in seconds.items()}
    extra = {name: spread.median - spreads["torch"].median for name, spread in spreads.items()}
    table = common.markdown_table(
        ["import", "seconds (min / median / max)", "over torch (medians)"],
        [[name, spread.text(), f"{extra[name]:+.2f}"] for name, spread in spreads.items()],
    )
    common.write_results("import", "Import time", options, spreads, table)


if __name__ == "__main__":
    main()
