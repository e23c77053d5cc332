"""Milliseconds per token: random weights of official dimensions, a fixed number of tokens, fp32 on the CPU.

The end of the text is suppressed, so that every search runs to its last token.
"""

from functools import partial
from typing import Any

import common
import torch

SEARCHES: dict[str, dict[str, Any]] = {"greedy": {}, "beam 5": {"beam_size": 5}}


def decode(package: Any, model: Any, features: torch.Tensor, tokens: int, search: str) -> Any:
    tokenizer = package.tokenizer.get_tokenizer(True, num_languages=model.num_languages, language="en")
    options = package.DecodingOptions(
        language="en",
        without_timestamps=True,
        fp16=False,
        sample_len=tokens,
        suppress_tokens=[tokenizer.eot],
        **SEARCHES[search],
    )
    return package.decode(model, features, options)


def main() -> None:
    import whisper

    import torchwhisper

    parser = common.arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=["tiny", "base"])
    parser.add_argument("--tokens", type=int, default=60, help="default: 60")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data, rows = {}, []
    for size in options.sizes:
        ours, reference = common.random_models(size)
        with torch.no_grad():
            features = reference.embed_audio(torch.randn(1, common.SIZES[size]["n_mels"], 3000))
        for search in SEARCHES:
            runs = {
                common.OURS: partial(decode, torchwhisper, ours, features, options.tokens, search),
                common.REFERENCE: partial(decode, whisper, reference, features, options.tokens, search),
            }
            with common.engine_required():
                same = runs[common.OURS]()[0].tokens == runs[common.REFERENCE]()[0].tokens
                spreads = common.interleaved(runs, options.rounds)
            data[f"{size}, {search}"] = spreads
            for name, spread in spreads.items():
                ratio = spreads[common.REFERENCE].median / spread.median
                milliseconds = spread.scaled(1000 / options.tokens).text(1)
                rows.append([size, search, name, milliseconds, f"{ratio:.2f}x", "yes" if same else "no"])
    table = common.markdown_table(
        ["size", "search", "engine", "ms per token (min / median / max)", "speed", "same tokens"], rows
    )
    title = f"Decoder, random weights, {options.tokens} tokens"
    common.write_results("decode", title, common.machine(options.threads), data, table)


if __name__ == "__main__":
    main()
