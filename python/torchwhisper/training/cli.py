"""The command `torchwhisper-finetune`."""

import argparse
import hashlib
import importlib.util
import math
import os
import sys
import warnings
from dataclasses import fields
from typing import Any

import torch
from torch import distributed as dist

from .._block_training import POLICIES
from . import checkpoint
from .augment import SpecAugment
from .batches import DataOptions, Dataset
from .distributed import PARALLEL, Ranks
from .evaluate import score
from .loop import Interrupted, Trainer, TrainingOptions
from .lora import add_lora
from .manifest import check_audio, read_manifest
from .pack import PackOptions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchwhisper-finetune",
        description="Fine-tunes a Whisper model. A manifest has one JSON object per line: audio and text, "
        "and optionally start, end, language, task, timestamps ([[start, end, text], ...]) and previous. "
        "For several devices: torchrun --nproc_per_node N $(which torchwhisper-finetune) ...",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # fmt: off
    add = parser.add_argument_group("what to train").add_argument
    add("--model", required=True, help="name of a model, or path to a checkpoint")
    add("--train", required=True, metavar="JSONL", help="manifest of the training data")
    add("--eval", metavar="JSONL", help="manifest to decode in between; the best weights by WER are kept")
    add("--out", required=True, metavar="DIR", help="gets model.pt, log.jsonl and checkpoints/")
    add("--language", help="of manifest lines that name none")
    add("--resume", action="store_true", help="go on where the run in --out stopped")
    add("--export", choices=["hugging_face", "safetensors"], help="write the result in this format too")
    add("--model-dir", help="where downloaded models are kept")

    add = parser.add_argument_group("windows").add_argument
    add("--pack", type=int, nargs="?", const=0, default=1, metavar="N",
        help="pack up to N short utterances into a window; without N as many as there is room for")
    add("--pack-gap", type=float, default=0.3, help="longest silence between packed utterances, in seconds")
    add("--timestamps", type=float, default=0.0, help="probability that timestamps are written")
    add("--prompts", type=float, default=0.0, help="probability that the previous text is given")
    add("--spec-augment", action="store_true", help="hide stripes of the spectrograms")
    add("--stochastic-depth", type=float, default=0.0, help="probability that a block is skipped")
    add("--workers", type=int, default=2, help="threads that load recordings")

    add = parser.add_argument_group("recipe").add_argument
    add("--epochs", type=int, help="passes over the data; 3 if no end is given")
    add("--steps", type=int, help="most optimizer steps")
    add("--minutes", type=float, help="most minutes; the learning rate falls with the clock")
    add("--batch-size", type=int, default=8, help="windows per device and pass")
    add("--accumulate", type=int, default=1, help="passes per step")
    add("--learning-rate", type=float, help="greatest rate; by the size of the model if not given")
    add("--warmup", type=int, help="steps in which the rate rises; a tenth of all, at most 500, if not given")
    add("--weight-decay", type=float, default=0.1)
    add("--clip", type=float, default=1.0, help="largest norm of the gradients; 0 for any")
    add("--lora", type=int, default=0, metavar="R", help="train adapters of rank R only (needs PEFT)")
    add("--freeze-encoder", action="store_true", help="train the decoder only")
    add("--seed", type=int, default=0)

    add = parser.add_argument_group("machine").add_argument
    add("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    add("--precision", choices=["fp32", "bf16", "auto"], default="fp32", help="auto: the faster one")
    add("--checkpointing", choices=POLICIES, help="activations to compute again, for less memory")
    add("--checkpoint-every", type=int, default=1, metavar="N", help="in each N-th block only")
    add("--parallel", choices=PARALLEL, default="ddp", help="with torchrun: replicas, or shards of the model")
    add("--threads", type=int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    add("--eval-every", type=int, default=0, metavar="STEPS", help="0: after each epoch")
    add("--save-every", type=int, default=0, metavar="STEPS", help="0: after each epoch")
    add("--eval-batch-size", type=int, default=16, help="windows decoded at once")
    # fmt: on
    return parser


def cli() -> None:
    """Exits with 1 and a sentence where the run fails, with 130 where it was stopped and can be resumed."""
    args = _parser().parse_args()
    warnings.showwarning = _show_warning
    status = 1
    try:
        status = _run(args)
    except KeyboardInterrupt:
        _say("stopped at once; what was not saved is lost")
        status = 130
    except Interrupted as stopped:
        _say(str(stopped))
        status = 130
    except (OSError, RuntimeError, ValueError) as error:
        if os.environ.get("TORCHWHISPER_DEBUG"):
            raise
        _say(_sentence(error))
    if status:
        # Without the ceremonies of the interpreter's end: other ranks may be waiting in a collective.
        sys.stderr.flush()
        os._exit(status)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    said = " ".join(str(error).split())
    if isinstance(error, dist.DistError) or "gloo/transport" in said:
        return f"another rank has ended or cannot be reached: {said}"
    return said


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if not issubclass(category, (DeprecationWarning, FutureWarning)):  # those are for programmers
        _say(f"warning: {' '.join(str(message).split())}")


def _say(line: str) -> None:
    rank = f" rank {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"torchwhisper-finetune{rank}: {line}", file=sys.stderr)


def _run(args: argparse.Namespace) -> int:
    from .. import load_model, save_model

    if args.threads > 0:
        torch.set_num_threads(args.threads)
    _check_numbers(args)
    if checkpoint.latest(os.path.join(args.out, "checkpoints")) is not None and not args.resume:
        raise ValueError(
            f"{args.out} holds a run already: add --resume to go on with it, or name another folder"
        )
    train_list = read_manifest(args.train, args.language)
    eval_list = read_manifest(args.eval, args.language) if args.eval else []
    if eval_list:
        score([])  # says early that jiwer is missing
    if args.export and importlib.util.find_spec("safetensors") is None:
        raise RuntimeError("--export needs safetensors: pip install safetensors")
    ranks = Ranks(args.parallel, args.device)
    try:
        model = load_model(
            args.model, device="cpu", download_root=args.model_dir, checkpointing=args.checkpointing
        )
        model.enable_checkpointing(args.checkpointing, every=args.checkpoint_every)
        model.set_stochastic_depth(args.stochastic_depth)
        torch.manual_seed(args.seed)  # of the adapters' first weights, the same on every rank
        if args.lora:
            add_lora(model, args.lora)
        if args.freeze_encoder:
            model.encoder.requires_grad_(False)
        options = DataOptions(
            pack=PackOptions(args.pack, args.pack_gap),
            timestamps=args.timestamps,
            prompts=args.prompts,
            spec_augment=SpecAugment() if args.spec_augment else None,
            seed=args.seed,
        )
        longest = model.dims.n_audio_ctx / 50
        lengths = [check_audio(utterances, longest, args.workers) for utterances in (train_list, eval_list)]
        train = Dataset(train_list, lengths[0], model.dims, options)
        evaluation = Dataset(eval_list, lengths[1], model.dims, options) if eval_list else None
        trainer = Trainer(model, train, args.out, _options(args), evaluation, ranks)
        if args.resume:
            found = trainer.resume()
            if ranks.is_main:
                _say(f"going on after step {trainer.step}" if found else "no checkpoint yet, starting anew")
        trainer.run()
        if args.export and ranks.is_main:
            best = load_model(os.path.join(args.out, "model.pt"), device="cpu")
            name = "hugging_face" if args.export == "hugging_face" else "model.safetensors"
            save_model(best, os.path.join(args.out, name), args.export)
    finally:
        if sys.exc_info()[0] is None:
            ranks.close()
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("batch_size", "accumulate", "workers", "checkpoint_every", "eval_batch_size"):
        _require(args, name, getattr(args, name) >= 1, "at least 1")
    for name in ("epochs", "steps", "minutes", "learning_rate"):
        value = getattr(args, name)
        _require(args, name, value is None or 0 < value < math.inf, "a positive number")
    for name in ("timestamps", "prompts"):
        _require(args, name, 0 <= getattr(args, name) <= 1, "a probability")
    _require(args, "stochastic_depth", 0 <= args.stochastic_depth < 1, "a probability below 1")
    for name in ("pack", "pack_gap", "lora", "clip", "weight_decay", "eval_every", "save_every", "threads"):
        _require(args, name, 0 <= getattr(args, name) < math.inf, "0 or more")
    _require(args, "warmup", args.warmup is None or args.warmup >= 0, "0 or more")
    _require(args, "seed", 0 <= args.seed < 1 << 63, "0 or more, below 2**63")


def _require(args: argparse.Namespace, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected {expected}")


def _options(args: argparse.Namespace) -> TrainingOptions:
    given = vars(args)
    named = {field.name: given[field.name] for field in fields(TrainingOptions) if field.name in given}
    notes = {name: given[name] for name in _DECIDE} | {"the SHA-256 of --train": _digest(args.train)}
    return TrainingOptions(**named, notes=notes)


# What decides the course of a run besides the options of the trainer.
_DECIDE = (
    *("model", "language", "pack", "pack_gap", "timestamps", "prompts", "spec_augment"),
    *("stochastic_depth", "freeze_encoder", "parallel"),
)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


if __name__ == "__main__":
    cli()
