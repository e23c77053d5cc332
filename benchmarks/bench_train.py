"""Training steps (forward, backward, AdamW) on random weights of official dimensions: time and peak memory.

torchwhisper beside openai-whisper's modules with torch.utils.checkpoint on every block, and beside Hugging
Face's if transformers is there; with and without checkpointing, with the loss in pieces and over all logits.
fp32 on the CPU, autocast to bfloat16 on CUDA.

Every measurement runs in a process of its own; `--rounds` counts turns through all of them.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bars
import common
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

HUGGING_FACE = "transformers"
# What is measured: engine, checkpointing, loss.
KINDS = [
    *((common.OURS, policy, "chunked") for policy in ("none", "selective", "mlp", "block")),
    *((common.OURS, policy, "whole") for policy in ("none", "block")),
    *((common.REFERENCE, policy, "whole") for policy in ("none", "block")),
    *((HUGGING_FACE, policy, "whole") for policy in ("none", "block")),
]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=["tiny", "base"])
    parser.add_argument("--batch", type=int, default=4, help="windows per step")
    parser.add_argument("--tokens", type=int, default=200, help="label tokens per window")
    parser.add_argument("--steps", type=int, default=3, help="timed steps in each process, after one more")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    engines = (common.OURS, common.REFERENCE, HUGGING_FACE)
    policies = ("none", "selective", "mlp", "block")
    parser.add_argument("--engines", nargs="+", choices=engines, default=engines)
    parser.add_argument("--checkpointing", nargs="+", choices=policies, default=policies)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(json.loads(options.one), options)))
        return
    kinds = [
        kind
        for kind in KINDS
        if available(kind[0]) and kind[0] in options.engines and kind[1] in options.checkpointing
    ]
    data: dict[str, Any] = {}
    for size in options.sizes:
        for turn in range(options.rounds):
            for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                found = in_process(size, kind, options)
                kept = data.setdefault(size, {}).setdefault(" / ".join(kind), {"seconds": [], "peak": 0})
                kept["seconds"] += found["seconds"]
                kept["peak"] = max(kept["peak"], found["peak"])
    title = f"Training steps, batch {options.batch}, {options.tokens} label tokens, {options.device}"
    if options.device == "cuda":
        title += f" ({torch.cuda.get_device_name()}), bf16 autocast"
    common.write_results("train", title, options, data, table(data, options.batch))
    draw(data, title, options.results)


def available(engine: str) -> bool:
    package = {common.OURS: "torchwhisper", common.REFERENCE: "whisper"}.get(engine, engine)
    return importlib.util.find_spec(package) is not None


def in_process(size: str, kind: tuple[str, str, str], options: Any) -> dict[str, Any]:
    given = {name: str(getattr(options, name)) for name in ("batch", "tokens", "steps", "device", "threads")}
    listed = [item for name, value in given.items() for item in (f"--{name}", value)]
    line = common.in_fresh_process(__file__, *listed, "--one", json.dumps([size, *kind]))
    found: dict[str, Any] = json.loads(line)
    return found


def table(data: dict[str, Any], batch: int) -> str:
    rows = []
    for size, kinds in data.items():
        reference = kinds.get(f"{common.REFERENCE} / none / whole")
        for kind, found in kinds.items():
            spread = common.Spread.of(found["seconds"])
            ratio = spread.median / statistics.median(reference["seconds"]) if reference else None
            peak = f"{found['peak'] / 2**30:.2f}"
            speed = f"{batch / spread.median:.2f}"
            against = common.shown(ratio, "{:.2f}")
            rows.append([size, *kind.split(" / "), spread.text(3), speed, against, peak])
    header = ["size", "engine", "checkpointing", "loss", "s per step (min / median / max)"]
    header += ["windows/s", "time against the reference's", "peak GiB"]
    return common.markdown_table(header, rows)


def draw(data: dict[str, Any], title: str, results: Path) -> None:
    """Two figures, of time and of memory: a group of bars for each size and policy."""
    seconds: dict[str, dict[str, common.Spread]] = {}
    peaks: dict[str, dict[str, common.Spread]] = {}
    for size, kinds in data.items():
        for kind, found in kinds.items():
            engine, policy, loss = kind.split(" / ")
            group = f"{size}\nkeeps all" if policy == "none" else f"{size}\n{policy}"
            name = f"{engine}, loss in pieces" if loss == "chunked" else engine
            seconds.setdefault(group, {})[name] = common.Spread.of(found["seconds"])
            peaks.setdefault(group, {})[name] = common.Spread.of([found["peak"] / 2**30])
    bars.draw(seconds, title, "seconds per step", results / "train.svg")
    bars.draw(peaks, title, "peak memory, GiB", results / "train_memory.svg")


# ----------------------------------------------------------------------------------------------------------
# One measurement
# ----------------------------------------------------------------------------------------------------------


def measure(given: list[str], options: Any) -> dict[str, Any]:
    size, engine, policy, loss_kind = given
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, dims = torch.device(options.device), common.SIZES[size]
    with torch.device(device):
        model, loss_of = {common.OURS: ours, common.REFERENCE: reference}.get(engine, hugging_face)(
            dims, policy, loss_kind
        )
        settle(model)
        mel = torch.randn(options.batch, dims["n_mels"], 3000)
        tokens = torch.randint(0, 50000, (options.batch, options.tokens + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    on_gpu = device.type == "cuda"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = loss_of(mel, tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()

    seconds = []
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if on_gpu else common.peak_memory_mib() * 2**20
    return {"seconds": seconds[1:], "peak": peak}


def settle(model: nn.Module) -> None:
    """Gives the embeddings the size they have in trained models: some come unset, and huge logits make
    probabilities that the CPU is slow with."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name:
                nn.init.normal_(parameter, std=0.02)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def ours(dims: dict[str, int], policy: str, loss: str) -> tuple[nn.Module, Loss]:
    import torchwhisper.model as tm
    from torchwhisper import _engine
    from torchwhisper.training import TrainingStep

    _engine.require()
    model = tm.Whisper(tm.ModelDimensions(**dims))
    model.enable_checkpointing(None if policy == "none" else policy)
    whole = TrainingStep(model)
    if loss == "chunked":
        return model, lambda mel, tokens, targets: whole(mel, tokens, targets, targets.numel())
    return model, lambda mel, tokens, targets: cross_entropy(model(mel, tokens), targets)


def reference(dims: dict[str, int], policy: str, loss: str) -> tuple[nn.Module, Loss]:
    import whisper.model

    model = whisper.model.Whisper(whisper.model.ModelDimensions(**dims))
    if policy == "block":
        for block in (*model.encoder.blocks, *model.decoder.blocks):
            forward = block.forward
            block.forward = lambda *given, forward=forward, **named: checkpoint(
                forward, *given, use_reentrant=False, **named
            )
    return model, lambda mel, tokens, targets: cross_entropy(model(mel, tokens), targets)


def hugging_face(dims: dict[str, int], policy: str, loss: str) -> tuple[nn.Module, Loss]:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        decoder_layers=dims["n_text_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        decoder_attention_heads=dims["n_text_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        decoder_ffn_dim=4 * dims["n_text_state"],
        use_cache=False,
    )
    model = WhisperForConditionalGeneration(config).train()
    if policy == "block":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return (
        model,
        lambda mel, tokens, targets: model(input_features=mel, decoder_input_ids=tokens, labels=targets).loss,
    )


if __name__ == "__main__":
    main()
