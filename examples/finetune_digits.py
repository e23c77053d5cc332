"""Fine-tunes the bundled model to digits that people spoke, on a CPU and within minutes.

    python examples/finetune_digits.py path/to/free-spoken-digit-dataset/recordings

The folder is laid out as the Free Spoken Digit Dataset is: {digit}_{speaker}_{index}.wav, where the indices
below 5 are its official test set. The results are printed as a table of error rates before and after, and
--out gets the model, the log, and a plot of loss and word error rate.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

import torch

import torchwhisper
from torchwhisper import training

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"(\d)_(\w+)_(\d+)\.wav")
OFFICIAL_TEST = 5
ROWS = {
    "words as written": "wer",
    "words, normalized": "wer_normalized",
    "characters, normalized": "cer_normalized",
    "recordings with an error": "ser_normalized",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path, help="folder of {digit}_{speaker}_{index}.wav")
    parser.add_argument("--out", type=Path, default=Path("digits"), help="default: digits")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--minutes", type=float, default=7.5, help="of training; default: 7.5")
    parser.add_argument(
        "--held-out", nargs="+", metavar="SPEAKER", help="test on all of these speakers, train on the others"
    )
    parser.add_argument(
        "--precision", choices=["auto", "fp32", "bf16"], default="auto", help="default: the faster one"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if (args.out / "checkpoints").exists():
        sys.exit(f"{args.out} holds a run already: remove it, or name another folder by --out")
    torch.set_num_threads(args.threads)
    began = time.monotonic()

    model = torchwhisper.load_model(args.model, device="cpu")
    manifests = write_manifests(args.recordings, args.out, args.held_out)
    options = training.DataOptions(pack=training.PackOptions(utterances=20, gap=0.2))
    train, test = (as_dataset(manifest, model, options) for manifest in manifests)
    trainer = training.Trainer(
        model,
        train,
        str(args.out),
        training.TrainingOptions(
            minutes=args.minutes,
            batch_size=4,
            learning_rate=7e-4,
            warmup=20,
            precision=args.precision,
            eval_every=10**9,
        ),
    )
    before = error_rates(model, test)
    trainer.run()
    after = error_rates(model, test)

    print(f"\n{len(train.utterances)} recordings for training, {len(test.utterances)} for the test")
    print(f"{'':28}{'before':>10}{'after':>10}")
    for label, name in ROWS.items():
        print(f"{label:28}{getattr(before, name):10.1%}{getattr(after, name):10.1%}")
    seconds = time.monotonic() - began
    print(f"{trainer.step} steps in {trainer.options.precision}, {seconds:.0f} s in all")
    print(f"The model is {args.out / 'model.pt'}")
    plot(args.out, [(0, before.wer_normalized), (trainer.step, after.wer_normalized)])


def write_manifests(recordings: Path, out: Path, held_out: list[str] | None) -> tuple[Path, Path]:
    """Two manifests, for training and for the test."""
    lines: tuple[list[str], list[str]] = ([], [])
    for path in sorted(recordings.glob("*.wav")):
        if (match := NAME.fullmatch(path.name)) is None:
            continue
        digit, speaker, index = match.groups()
        is_test = speaker in held_out if held_out else int(index) < OFFICIAL_TEST
        entry = {"audio": str(path.resolve()), "text": WORDS[int(digit)], "language": "en"}
        lines[is_test].append(json.dumps(entry))
    if not all(lines):
        of_whom = f" of {', '.join(held_out)} and of others" if held_out else ""
        sys.exit(
            f"{recordings} has no recordings named digit_speaker_index.wav{of_whom} for training and test"
        )
    out.mkdir(parents=True, exist_ok=True)
    manifests = out / "train.jsonl", out / "test.jsonl"
    for manifest, entries in zip(manifests, lines, strict=True):
        manifest.write_text("\n".join(entries) + "\n")
    return manifests


def as_dataset(
    manifest: Path, model: torchwhisper.Whisper, options: training.DataOptions
) -> training.Dataset:
    utterances = training.read_manifest(str(manifest))
    return training.Dataset(utterances, training.check_audio(utterances, longest=30), model.dims, options)


def error_rates(model: torchwhisper.Whisper, test: training.Dataset) -> training.Scores:
    return training.evaluate(model, test, training.Ranks(device="cpu"), batch_size=16)


def plot(out: Path, rates: list[tuple[int, float]]) -> None:
    try:
        import matplotlib
    except ImportError:
        print("No plot: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    figure, axis = pyplot.subplots(figsize=(7, 4))
    axis.plot(*zip(*steps, strict=True), color="tab:blue")
    axis.set(xlabel="step", ylabel="loss per token", yscale="log")
    other = axis.twinx()
    other.plot(*zip(*rates, strict=True), "o--", color="tab:red")
    other.set(ylabel="word error rate of the test set, normalized")
    other.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(out / "training.png", dpi=150)
    print(f"The plot is {out / 'training.png'}")


if __name__ == "__main__":
    main()
