"""Transcribes a file: a progress bar while it runs, then the timed text, then subtitles beside the audio.

python examples/transcribe.py examples/jfk.flac --model demo
"""

import argparse
from pathlib import Path

import torchwhisper as whisper
from torchwhisper.utils import format_timestamp, get_writer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audio", type=Path)
    parser.add_argument("--model", default="demo", help="an official name, a path, or demo (default: demo)")
    parser.add_argument("--output_dir", type=Path, help="where to write (default: beside the audio)")
    arguments = parser.parse_args()

    model = whisper.load_model(arguments.model)
    # verbose=False shows a progress bar, True prints each segment when it is ready, None is silent.
    result = whisper.transcribe(model, str(arguments.audio), verbose=False, fp16=model.device.type == "cuda")

    for segment in result["segments"]:
        times = f"[{format_timestamp(segment['start'])} --> {format_timestamp(segment['end'])}]"
        print(times + segment["text"])

    output_dir = arguments.output_dir or arguments.audio.parent
    get_writer("all", str(output_dir))(result, str(arguments.audio))
    written = [f"{arguments.audio.stem}.{kind}" for kind in ("txt", "vtt", "srt", "tsv", "json")]
    print(f"wrote {', '.join(written)} to {output_dir}")


if __name__ == "__main__":
    main()
