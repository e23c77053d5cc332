"""Log-mel spectrograms and the decoding of sound files: speed, and memory on a long recording."""

import argparse
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import common
import numpy as np
import torch

_FLAG = "--peak-of"


def _peak(package: str, minutes: int) -> float:
    """MiB that a spectrogram adds to the process; run in a process of its own."""
    audio = import_module(f"{package}.audio")
    random = np.random.default_rng(0)
    samples = random.random(minutes * 60 * audio.SAMPLE_RATE, np.float32)
    audio.log_mel_spectrogram(samples[: 10 * audio.SAMPLE_RATE])
    before = common.peak_memory_mib()
    audio.log_mel_spectrogram(samples, padding=audio.N_SAMPLES)
    return common.peak_memory_mib() - before


def main() -> None:
    parser = common.arguments(__doc__, rounds=5)
    parser.add_argument("--audio", type=Path, default=common.default_audio()[0])
    parser.add_argument("--minutes", type=int, default=60, help="of the long recording, default: 60")
    parser.add_argument(_FLAG, choices=("torchwhisper", "whisper"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print(_peak(options.peak_of, options.minutes))
        return

    import whisper

    import torchwhisper

    jfk = common.ROOT / "examples" / "jfk.flac"
    packages = {common.OURS: torchwhisper.audio, common.REFERENCE: whisper.audio}
    samples = packages[common.OURS].load_audio(str(options.audio))
    work = {
        f"log-mel of {options.audio.name}": lambda audio: partial(
            audio.log_mel_spectrogram, samples, padding=audio.N_SAMPLES
        ),
        f"load {options.audio.name}": lambda audio: partial(audio.load_audio, str(options.audio)),
        f"load and resample {jfk.name}": lambda audio: partial(audio.load_audio, str(jfk)),
    }
    data: dict[str, object] = {}
    rows = []
    for title, run_of in work.items():
        runs = {name: run_of(audio) for name, audio in packages.items()}
        spreads = common.interleaved(runs, options.rounds)
        data[title] = spreads
        for name, spread in spreads.items():
            ratio = spreads[common.REFERENCE].median / spread.median
            rows.append([title, name, spread.scaled(1000).text(1), f"{ratio:.2f}x"])
    table = common.markdown_table(["work", "engine", "ms (min / median / max)", "speed"], rows)

    peaks = {}
    for name, package in ((common.OURS, "torchwhisper"), (common.REFERENCE, "whisper")):
        arguments = (_FLAG, package, "--minutes", str(options.minutes), "--threads", str(options.threads))
        peaks[name] = float(common.in_fresh_process(sys.argv[0], *arguments))
    data[f"MiB for {options.minutes} min"] = peaks
    memory = common.markdown_table(
        ["engine", f"MiB that the log-mel of {options.minutes} min adds"],
        [[name, f"{peak:.0f}"] for name, peak in peaks.items()],
    )
    common.write_results("mel", "Sound files and spectrograms", options, data, f"{table}\n\n{memory}")


if __name__ == "__main__":
    main()
