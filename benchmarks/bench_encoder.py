"""One 30 s window through the encoder: random weights of official dimensions, fp32 on the CPU."""

from functools import partial

import common
import torch


def main() -> None:
    parser = common.arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=["tiny", "base"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data, rows = {}, []
    for size in options.sizes:
        ours, reference = common.random_models(size)
        mel = torch.randn(1, common.SIZES[size]["n_mels"], 3000)
        runs = {
            common.OURS: partial(ours.embed_audio, mel),
            common.REFERENCE: partial(reference.embed_audio, mel),
        }
        with torch.no_grad(), common.engine_required():
            error = (runs[common.OURS]() - runs[common.REFERENCE]()).abs().max().item()
            data[size] = common.interleaved(runs, options.rounds)
        for name, spread in data[size].items():
            ratio = data[size][common.REFERENCE].median / spread.median
            rows.append([size, name, spread.scaled(1000).text(0), f"{ratio:.2f}x", f"{error:.1e}"])
    table = common.markdown_table(
        ["size", "engine", "ms per window (min / median / max)", "speed", "largest difference"], rows
    )
    common.write_results("encoder", "Encoder, random weights", common.machine(options.threads), data, table)


if __name__ == "__main__":
    main()
