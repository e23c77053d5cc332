"""Transcription of whole recordings.

`transcribe` slides a 30-second window over the log-mel of the recording, decodes each window with fallback to
higher temperatures, and moves on to where the decoded timestamps end (`_windows`). Several recordings advance
in lock step, and their windows are decoded as one batch (`_lock_step`, `_batch`). Source: openai-whisper's
`whisper/transcribe.py`, whose module-level names are kept: other programs replace `tqdm` here.
"""

import argparse  # noqa: F401
import os  # noqa: F401
import sys
import traceback  # noqa: F401
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Union, cast, overload  # noqa: F401, UP035

import numpy as np
import torch
import tqdm
from torch import Tensor

from . import _batch, _command_line, _compute_type, _engine, timing
from ._lock_step import InTurn, Stream, drive, in_lock_step
from ._memory import give_back
from ._recording import Recording, takes_features
from ._windows import APPENDED as _APPENDED
from ._windows import PREPENDED as _PREPENDED
from ._windows import Segment, Settings, Transcription, Window
from .audio import (  # noqa: F401
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    N_FRAMES,
    N_SAMPLES,
    SAMPLE_RATE,
    AudioFile,
    log_mel_spectrogram,
    pad_or_trim,
)
from .decoding import DecodingOptions, DecodingResult  # noqa: F401
from .timing import add_word_timestamps
from .tokenizer import LANGUAGES, TO_LANGUAGE_CODE, get_tokenizer  # noqa: F401
from .utils import (  # noqa: F401
    exact_div,
    format_timestamp,
    get_end,
    get_writer,
    make_safe,
    optional_float,
    optional_int,
    str2bool,
)

if TYPE_CHECKING:
    from .model import Whisper

Audio = AudioFile | np.ndarray[Any, Any] | Tensor
Result = dict[str, Any]

# Replacements of these expect a log-mel where ours take audio features too.
_ADD_WORDS, _FIND_ALIGNMENT = add_word_timestamps, timing.find_alignment


@overload
def transcribe(model: "Whisper", audio: Audio, **options: Any) -> Result: ...


@overload
def transcribe(model: "Whisper", audio: list[Audio] | tuple[Audio, ...], **options: Any) -> list[Result]: ...


def transcribe(
    model: "Whisper",
    audio: Audio | list[Audio] | tuple[Audio, ...],
    *,
    verbose: bool | None = None,
    temperature: float | Iterable[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    compression_ratio_threshold: float | None = 2.4,
    logprob_threshold: float | None = -1.0,
    no_speech_threshold: float | None = 0.6,
    condition_on_previous_text: bool = True,
    initial_prompt: str | None = None,
    carry_initial_prompt: bool = False,
    word_timestamps: bool = False,
    prepend_punctuations: str = _PREPENDED,
    append_punctuations: str = _APPENDED,
    clip_timestamps: str | Sequence[float] = "0",
    hallucination_silence_threshold: float | None = None,
    batch_size: int = 4,
    **decode_options: Any,
) -> Result | list[Result]:
    """Transcribes a recording, or several together.

    Args:
        model: the model.
        audio: what `load_audio` takes, or samples at 16 kHz [samples], as `log_mel_spectrogram` takes them. A
            list or tuple of these is transcribed as one by one, but sooner: windows of several recordings are
            decoded at once.
        verbose: True prints each segment, False shows a progress bar, None is silent.
        temperature: tried in this order until a window's text passes the two thresholds that follow.
        compression_ratio_threshold: text that zlib compresses by more than this failed (it repeats itself).
        logprob_threshold: text whose mean log probability per token is below this failed.
        no_speech_threshold: a window is silent if its no-speech probability is above this and its text failed
            by `logprob_threshold`.
        condition_on_previous_text: gives the text so far as prompt to the next window.
        initial_prompt: prompt of the first window, such as names that occur.
        carry_initial_prompt: puts `initial_prompt` before every window's prompt.
        word_timestamps: adds "words" to each segment and refines the segments' times by them.
        prepend_punctuations: marks that belong to the word after them.
        append_punctuations: marks that belong to the word before them.
        clip_timestamps: seconds "start,end,start,end,..." of what to transcribe, as a string or numbers; the
            last end is by default that of the recording.
        hallucination_silence_threshold: with `word_timestamps`, seconds of silence beyond which improbable
            words beside it are skipped.
        batch_size: how many windows are decoded at once, of as many recordings; or of as many clips of one
            recording, where no clip needs to know the one before.
        decode_options: the other fields of `DecodingOptions`.

    Returns:
        "text", "segments" and "language" (as given, or the detected code). A segment has "id", "seek" (frames
        of 10 ms), "start" and "end" (seconds), "text", "tokens", "temperature", "avg_logprob",
        "compression_ratio", "no_speech_prob" and, if asked for, "words" of "word", "start", "end",
        "probability". For several recordings a list of these.

    Raises:
        The error of the first recording that fails, of several.
        ValueError: samples that are not finite, clips or temperatures that make no sense, bad decode options.
        RuntimeError: a file that cannot be read. TypeError: an unknown decode option.
    """
    settings = Settings.of(
        verbose=verbose,
        temperature=temperature,
        compression_ratio_threshold=compression_ratio_threshold,
        logprob_threshold=logprob_threshold,
        no_speech_threshold=no_speech_threshold,
        condition_on_previous_text=condition_on_previous_text,
        initial_prompt=initial_prompt,
        carry_initial_prompt=carry_initial_prompt,
        word_timestamps=word_timestamps,
        prepend_punctuations=prepend_punctuations,
        append_punctuations=append_punctuations,
        clip_timestamps=clip_timestamps,
        hallucination_silence_threshold=hallucination_silence_threshold,
        **decode_options,
    )
    results: dict[int, Result] = {}

    def keep(number: int, outcome: Result | Exception) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        results[number] = outcome

    if not isinstance(audio, list | tuple):
        transcribe_each(model, [audio], settings, batch_size, keep)
        return results[0]
    transcribe_each(model, audio, settings, batch_size, keep)
    return [results[number] for number in range(len(audio))]


def transcribe_each(
    model: "Whisper",
    recordings: Sequence[Audio],
    settings: Settings,
    batch_size: int,
    done: Callable[[int, Result | Exception], None],
) -> None:
    """Transcribes recordings together.

    Args:
        done: told the number of a recording that is finished, and its result or why it has none.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    dtype = _dtype(model, settings.decode_options)
    printed = InTurn(print)

    def ended(number: int, outcome: Result | Exception) -> None:
        printed.end(number)
        done(number, outcome)

    streams = (
        _transcribed(model, audio, settings, dtype, batch_size, printed.voice(number))
        for number, audio in enumerate(recordings)
    )
    decode = partial(_batch.decode_attempts, model, batch_size)
    # The engine checks the weights once, and not for every window.
    with _engine.session(model, dtype) if takes_features(model) else nullcontext():
        drive(in_lock_step(streams, batch_size, ended), decode)


def _transcribed(
    model: "Whisper",
    audio: Audio,
    settings: Settings,
    dtype: torch.dtype,
    batch_size: int,
    say: Callable[[str], object],
) -> Stream[Result]:
    """The stream of one recording; its clips advance in lock step where none needs another."""
    recording = Recording(model, _spectrogram(model, audio), dtype, pad_or_trim)
    _warn_of_the_cpu(model, settings.decode_options)
    options = dict(settings.decode_options)
    if dtype == torch.float32:
        options["fp16"] = False
    if options.get("language") is None:
        options["language"] = _language(recording, settings.verbose, say)
    settings = replace(settings, decode_options=options)
    language: str = options["language"]
    task: str = options.get("task", "transcribe")
    tokenizer = get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language=language, task=task
    )
    give_back()  # the samples, the buffers of the transform, the text of the vocabulary
    if settings.word_timestamps and task == "translate":
        warnings.warn("Word-level timestamps on translations may not be reliable.", stacklevel=1)

    clips = _clips(settings.clip_timestamps, recording.content_frames)
    apart = settings.independent and takes_features(model)
    parts = [[clip] for clip in clips] if apart else [clips]
    printed = InTurn(say)
    transcriptions = [
        Transcription(
            recording.again() if number else recording,
            tokenizer,
            settings,
            partial(_show, printed.voice(number)),
            _add_words,
        )
        for number in range(len(parts))
    ]

    def ended(number: int, outcome: Exception | None) -> None:
        if outcome is not None:
            raise outcome
        printed.end(number)

    total = recording.content_frames
    # Called by its module: front ends replace tqdm.tqdm there to show the progress themselves.
    with tqdm.tqdm(total=total, unit="frames", disable=settings.verbose is not False) as progress:
        streams = (one.run(part, progress.update) for one, part in zip(transcriptions, parts, strict=True))
        yield from in_lock_step(streams, batch_size, ended, waits=_batch.draws)
    segments = [segment for one in transcriptions for segment in one.segments]
    return {
        "text": tokenizer.decode([token for one in transcriptions for token in one.spoken()]),
        "segments": [{"id": number, **segment} for number, segment in enumerate(segments)],
        "language": language,
    }


def _dtype(model: "Whisper", decode_options: dict[str, Any]) -> torch.dtype:
    half: bool = decode_options.get("fp16", True) and model.device != torch.device("cpu")
    return _compute_type.dtype_of_activations(model, half)


def _warn_of_the_cpu(model: "Whisper", decode_options: dict[str, Any]) -> None:
    if model.device == torch.device("cpu"):
        if torch.cuda.is_available():
            warnings.warn("Performing inference on CPU when CUDA is available", stacklevel=1)
        if decode_options.get("fp16", True):
            warnings.warn("FP16 is not supported on CPU; using FP32 instead", stacklevel=1)


def _spectrogram(model: "Whisper", audio: Any) -> Tensor:
    """[n_mels, frames] of the whole recording, whose maximum sets its floor, and 30 s of silence."""
    mel = log_mel_spectrogram(audio, model.dims.n_mels, padding=N_SAMPLES)
    if mel.ndim != 2:
        raise ValueError(f"audio has {mel.ndim - 1} dimensions, expected one channel of samples")
    return mel


def _language(recording: Recording, verbose: bool | None, say: Callable[[str], object]) -> str:
    """The most probable language of the first 30 s."""
    model = recording.model
    if not model.is_multilingual:
        return "en"
    if verbose:
        say("Detecting language using up to the first 30 seconds. Use `--language` to specify the language")
    # Past the recording's end this has the silence that was appended, where the loop's windows have zeros.
    _, found = model.detect_language(recording.window(0, N_FRAMES))
    probs = cast(dict[str, float], found)
    language = max(probs, key=probs.__getitem__)
    if verbose is not None:
        say(f"Detected language: {LANGUAGES[language].title()}")
    return language


def _clips(clip_timestamps: str | Sequence[float], content_frames: int) -> list[tuple[int, int]]:
    """[start, end) in frames, none beyond the recording."""
    if isinstance(clip_timestamps, str):
        clip_timestamps = [float(ts) for ts in clip_timestamps.split(",")] if clip_timestamps else []
    if not np.isfinite(np.asarray(clip_timestamps, dtype=float)).all():
        raise ValueError(f"clip_timestamps is {clip_timestamps}, expected finite numbers of seconds")
    points = [round(ts * FRAMES_PER_SECOND) for ts in clip_timestamps] or [0]
    if len(points) % 2 == 1:
        points.append(content_frames)
    return [(start, min(end, content_frames)) for start, end in zip(points[::2], points[1::2], strict=True)]


def _show(say: Callable[[str], object], segment: Segment) -> None:
    start, end = format_timestamp(segment["start"]), format_timestamp(segment["end"])
    say(make_safe(f"[{start} --> {end}] {segment['text']}"))


def _add_words(done: Transcription, window: Window, segments: list[Segment]) -> None:
    stock = add_word_timestamps is _ADD_WORDS and timing.find_alignment is _FIND_ALIGNMENT
    audio = done.recording.window if stock else done.recording.mel_window
    add_word_timestamps(
        segments=segments,
        model=done.recording.model,
        tokenizer=done.tokenizer,
        mel=audio(window.start, window.size),
        num_frames=window.size,
        prepend_punctuations=done.settings.prepend_punctuations,
        append_punctuations=done.settings.append_punctuations,
        last_speech_timestamp=done.last_speech,
    )


_TRANSCRIBE = transcribe


def cli() -> None:
    """The command `torchwhisper`. Exits with 1 if a recording had to be skipped, 2 for wrong arguments."""
    try:
        status = _command_line.run()
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        status = 130
    if status != 0:
        sys.exit(status)


if __name__ == "__main__":
    cli()
