"""The command `torchwhisper`: its options, and what it does with them."""

import argparse
import importlib
import logging
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ._compute_type import NAMES
from ._windows import APPENDED, PREPENDED, Settings
from .tokenizer import LANGUAGES, TO_LANGUAGE_CODE
from .utils import optional_float, optional_int, str2bool

_LOG = logging.getLogger("torchwhisper")
_WORD_OPTIONS = ("highlight_words", "max_line_count", "max_line_width", "max_words_per_line")


def _model_name(name: str) -> str:
    from . import _hub, available_models

    if name in (*available_models(), "demo") or os.path.exists(name) or _hub.is_id(name):
        return name
    known = ", ".join(available_models())
    raise argparse.ArgumentTypeError(f"{name!r} is neither demo, nor one of {known}, nor a file")


def _program() -> str:
    """The command's name in messages; the script may be called `whisper` too (see python/compat)."""
    return "whisper" if os.path.splitext(os.path.basename(sys.argv[0]))[0] == "whisper" else "torchwhisper"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="Transcribes recordings and writes the transcripts as text, subtitles or JSON.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add("audio", nargs="+", help="recordings to transcribe")
    add("--model", default="turbo", type=_model_name, help="name of a model, or path to a checkpoint")
    add("--model_dir", default=None, help="where downloaded models are kept; ~/.cache/whisper if not given")
    add("--compute_type", default="default", choices=NAMES,
        help="what to compute in; int8 and bfloat16 are faster on a CPU and need less memory")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="PyTorch device to run on")
    add("--output_dir", "-o", default=".", help="where transcripts are written")
    add("--output_format", "-f", default="all", choices=["txt", "vtt", "srt", "tsv", "json", "all"],
        help="which files are written")
    add("--verbose", type=str2bool, default=True, help="print the text; False shows a progress bar")

    add("--task", default="transcribe", choices=["transcribe", "translate"],
        help="write down what is said, or translate it to English")
    add("--language", default=None,
        choices=sorted(LANGUAGES) + sorted(name.title() for name in TO_LANGUAGE_CODE),
        help="language that is spoken; detected if not given")

    add("--temperature", type=float, default=0, help="temperature of the first attempt at a window")
    add("--best_of", type=optional_int, default=5, help="samples to choose from at temperatures above 0")
    add("--beam_size", type=optional_int, default=5, help="beams of the beam search at temperature 0")
    add("--patience", type=float, default=None, help="finish beam_size x patience beams; 1 if not given")
    add("--length_penalty", type=float, default=None,
        help="exponent of the length penalty when sequences are ranked, 0 to 1; plain mean if not given")

    add("--suppress_tokens", default="-1",
        help="comma-separated ids of tokens never to write; -1 stands for symbols that are not spoken")
    add("--initial_prompt", default=None, help="text to condition the first window on, such as names")
    add("--carry_initial_prompt", type=str2bool, default=False,
        help="condition every window on the initial prompt, which leaves less room for the previous text")
    add("--condition_on_previous_text", type=str2bool, default=True,
        help="condition each window on the text before it; False is less consistent, but loops less")
    add("--fp16", type=str2bool, default=True, help="compute in half precision where the device can")

    add("--temperature_increment_on_fallback", type=optional_float, default=0.2,
        help="how much to raise the temperature when an attempt fails; None for a single attempt")
    add("--compression_ratio_threshold", type=optional_float, default=2.4,
        help="an attempt fails if its text can be compressed by more than this")
    # These abbreviations are the reference's, which has no compute_type to confuse it with.
    add("--com", "--comp", dest="compression_ratio_threshold", type=optional_float,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--logprob_threshold", type=optional_float, default=-1.0,
        help="an attempt fails if its mean log probability is below this")
    add("--no_speech_threshold", type=optional_float, default=0.6,
        help="a window is silent if its no-speech probability is above this and logprob_threshold failed it")
    add("--word_timestamps", type=str2bool, default=False, help="find the time of every word")
    add("--prepend_punctuations", default=PREPENDED, help="marks that belong to the word after them")
    add("--append_punctuations", default=APPENDED, help="marks that belong to the word before them")
    add("--highlight_words", type=str2bool, default=False,
        help="underline each word as it is spoken in srt and vtt; needs --word_timestamps True")
    add("--max_line_width", type=optional_int, default=None,
        help="most characters in a line of a subtitle; needs --word_timestamps True")
    add("--max_line_count", type=optional_int, default=None,
        help="most lines in a subtitle; needs --word_timestamps True and --max_line_width")
    add("--max_words_per_line", type=optional_int, default=None,
        help="most words in a line; needs --word_timestamps True, unused with --max_line_width")
    add("--threads", type=optional_int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    add("--batch_size", type=int, default=4,
        help="how many windows of several recordings are decoded at once; costs memory for each")
    add("--clip_timestamps", default="0",
        help="seconds start,end,start,end,... of what to transcribe; the last end may be left out")
    add("--hallucination_silence_threshold", type=optional_float,
        help="seconds of silence beyond which doubtful words are skipped; needs --word_timestamps True")
    # fmt: on
    return parser


def run() -> int:
    """Parses sys.argv and does what it says; the exit status."""
    parser = _parser()
    args = vars(parser.parse_args())
    _check(parser, args)
    model_name: str = args.pop("model")
    output_dir: str = args.pop("output_dir")
    if model_name.endswith(".en") and args["language"] not in {"en", "English"}:
        if args["language"] is not None:
            given = args["language"]
            warnings.warn(
                f"{model_name} is an English-only model but receipted '{given}'; using English instead.",
                stacklevel=1,
            )
        args["language"] = "en"
    increment = args.pop("temperature_increment_on_fallback")
    args["temperature"] = _fallbacks(args["temperature"], increment)
    if (threads := args.pop("threads")) is not None and threads > 0:
        torch.set_num_threads(threads)

    from . import load_model

    device, model_dir, compute_type = (args.pop(name) for name in ("device", "model_dir", "compute_type"))
    try:
        os.makedirs(output_dir, exist_ok=True)
    except OSError as error:
        return _fail(f"Cannot write to {output_dir}: {_sentence(error)}")
    try:
        model = load_model(model_name, device=device, download_root=model_dir, compute_type=compute_type)
    except Exception as error:
        said = _sentence(error)
        return _fail(said if model_name in said else f"Model {model_name} cannot be loaded: {said}")

    return _transcribe(model, output_dir, args)


def _transcribe(model: Any, output_dir: str, args: dict[str, Any]) -> int:
    # Programs replace names there.
    module = importlib.import_module("torchwhisper.transcribe")
    writer = module.get_writer(args.pop("output_format"), output_dir)
    layout = {option: args.pop(option) for option in _WORD_OPTIONS}
    paths, batch_size = args.pop("audio"), args.pop("batch_size")
    status = 0

    def done(number: int, outcome: dict[str, Any] | Exception) -> None:
        nonlocal status
        try:
            if isinstance(outcome, Exception):
                raise outcome
            writer(outcome, paths[number], **layout)
        except Exception as error:
            status = _fail(f"Skipping {paths[number]} due to {type(error).__name__}: {_sentence(error)}")

    if module.transcribe is module._TRANSCRIBE:
        module.transcribe_each(model, paths, Settings.of(**args), batch_size, done)
        return status
    for number, path in enumerate(paths):
        try:
            outcome = module.transcribe(model, path, **args)
        except Exception as error:
            outcome = error
        done(number, outcome)
    return status


def _check(parser: argparse.ArgumentParser, args: dict[str, Any]) -> None:
    """Refuses what does not go together, and warns of what is lost."""
    if not args["word_timestamps"]:
        for option in _WORD_OPTIONS:
            if args[option]:
                parser.error(f"--{option} requires --word_timestamps True")
    if not math.isfinite(args["temperature"]):
        parser.error(f"--temperature is {args['temperature']}, expected a finite number")
    if args["batch_size"] < 1:
        parser.error(f"--batch_size is {args['batch_size']}, expected at least 1")
    increment = args["temperature_increment_on_fallback"]
    if increment is not None and not increment > 0:
        parser.error(
            f"--temperature_increment_on_fallback is {increment}, expected a positive number or None"
        )
    if args["max_line_count"] and not args["max_line_width"]:
        warnings.warn("--max_line_count has no effect without --max_line_width", stacklevel=1)
    if args["max_words_per_line"] and args["max_line_width"]:
        warnings.warn("--max_words_per_line has no effect with --max_line_width", stacklevel=1)
    names = Counter(os.path.splitext(os.path.basename(path))[0] for path in set(args["audio"]))
    for name, count in names.items():
        if count > 1:
            warnings.warn(
                f"{count} recordings are named {name}: only the last one's transcript will stay", stacklevel=1
            )


def _fallbacks(temperature: float, increment: float | None) -> Sequence[float]:
    """From `temperature` up to 1 in steps, by the arithmetic of `numpy.arange`: it shows in the JSON."""
    if increment is None:
        return [temperature]
    return tuple(np.arange(temperature, 1.0 + 1e-6, increment)) or [temperature]


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _fail(message: str) -> int:
    _LOG.debug(message, exc_info=True)
    print(message, file=sys.stderr)
    return 1
