"""Transcription of whole recordings, and the command line.

`transcribe` slides a 30-second window over the log-mel of the recording, decodes each window with fallback to
higher temperatures, and moves on to where the decoded timestamps end. Source: openai-whisper's
`whisper/transcribe.py`, whose module-level names are kept: other programs replace `tqdm` here.
"""

import argparse
import logging
import os
import sys
import traceback  # noqa: F401
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Union, cast  # noqa: F401, UP035

import numpy as np
import torch
import tqdm
from torch import Tensor

from . import _engine, decoding, timing
from .audio import (
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    N_FRAMES,
    N_SAMPLES,
    SAMPLE_RATE,
    AudioFile,
    log_mel_spectrogram,
    pad_or_trim,
)
from .decoding import DecodingOptions, DecodingResult
from .timing import add_word_timestamps
from .tokenizer import LANGUAGES, TO_LANGUAGE_CODE, Tokenizer, get_tokenizer
from .utils import (
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

Segment = dict[str, Any]
Word = dict[str, Any]

# Replacements of these expect a log-mel where ours take audio features too.
_ADD_WORDS, _FIND_ALIGNMENT = add_word_timestamps, timing.find_alignment

_LOG = logging.getLogger("torchwhisper")
_PREPENDED = "\"'“¿([{-"
_APPENDED = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001


def transcribe(
    model: "Whisper",
    audio: AudioFile | np.ndarray[Any, Any] | Tensor,
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
    **decode_options: Any,
) -> dict[str, Any]:
    """Transcribes a recording.

    Args:
        model: the model.
        audio: what `load_audio` takes, or samples at 16 kHz [samples], as `log_mel_spectrogram` takes them.
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
        decode_options: the other fields of `DecodingOptions`.

    Returns:
        "text", "segments" and "language" (as given, or the detected code). A segment has "id", "seek" (frames
        of 10 ms), "start" and "end" (seconds), "text", "tokens", "temperature", "avg_logprob",
        "compression_ratio", "no_speech_prob" and, if asked for, "words" of "word", "start", "end",
        "probability".

    Raises:
        ValueError: samples that are not finite, clips or temperatures that make no sense, bad decode options.
        RuntimeError: a file that cannot be read. TypeError: an unknown decode option.
    """
    mel = _spectrogram(model, audio)
    recording = _Recording(model, mel, _dtype(model, decode_options))
    settings = _Settings(
        verbose=verbose,
        temperatures=_temperatures(temperature),
        compression_ratio_threshold=compression_ratio_threshold,
        logprob_threshold=logprob_threshold,
        no_speech_threshold=no_speech_threshold,
        condition_on_previous_text=condition_on_previous_text,
        initial_prompt=initial_prompt,
        carry_initial_prompt=carry_initial_prompt,
        word_timestamps=word_timestamps,
        prepend_punctuations=prepend_punctuations,
        append_punctuations=append_punctuations,
        hallucination_silence_threshold=hallucination_silence_threshold,
        decode_options=decode_options,
    )
    with recording.session():
        if decode_options.get("language") is None:
            decode_options["language"] = _language(recording, verbose)
        language: str = decode_options["language"]
        task: str = decode_options.get("task", "transcribe")
        tokenizer = get_tokenizer(
            model.is_multilingual, num_languages=model.num_languages, language=language, task=task
        )
        if word_timestamps and task == "translate":
            warnings.warn("Word-level timestamps on translations may not be reliable.", stacklevel=1)
        transcription = _Transcription(recording, tokenizer, settings)
        transcription.run(_clips(clip_timestamps, recording.content_frames))
    return {"text": transcription.text(), "segments": transcription.segments, "language": language}


# ----------------------------------------------------------------------------------------------------
# Preparation
# ----------------------------------------------------------------------------------------------------


def _dtype(model: "Whisper", decode_options: dict[str, Any]) -> torch.dtype:
    """The dtype to compute in; tells `decode_options` where it is not half precision."""
    half: bool = decode_options.get("fp16", True)
    if model.device == torch.device("cpu"):
        if torch.cuda.is_available():
            warnings.warn("Performing inference on CPU when CUDA is available", stacklevel=1)
        if half:
            warnings.warn("FP16 is not supported on CPU; using FP32 instead", stacklevel=1)
            half = False
    if not half:
        decode_options["fp16"] = False
    return torch.float16 if half else torch.float32


def _spectrogram(model: "Whisper", audio: Any) -> Tensor:
    """[n_mels, frames] of the whole recording, whose maximum sets its floor, and 30 s of silence."""
    mel = log_mel_spectrogram(audio, model.dims.n_mels, padding=N_SAMPLES)
    if mel.ndim != 2:
        raise ValueError(f"audio has {mel.ndim - 1} dimensions, expected one channel of samples")
    return mel


class _Recording:
    """A recording in windows for one model. A window is encoded once, whoever asks for it."""

    def __init__(self, model: "Whisper", mel: Tensor, dtype: torch.dtype) -> None:
        self.model = model
        self.mel = mel
        self.dtype = dtype
        self.content_frames: int = mel.shape[-1] - N_FRAMES
        self.duration = self.content_frames * HOP_LENGTH / SAMPLE_RATE
        self._takes_features = _takes_features(model)
        self._encoded: tuple[int, int, Tensor] | None = None

    def session(self) -> AbstractContextManager[Any]:
        """Lets the engine check the weights once, and not for every window."""
        return _engine.session(self.model, self.dtype) if self._takes_features else nullcontext()

    def mel_window(self, start: int, size: int) -> Tensor:
        """Frames [start, start + size), followed by zeros: not silence, but what the models are used with."""
        return self._on_device(pad_or_trim(self.mel[:, start : start + size], N_FRAMES))

    def window(self, start: int, size: int) -> Tensor:
        """The audio features of `mel_window` if the model takes them in its place, else the log-mel."""
        if not self._takes_features:
            return self.mel_window(start, size)
        if self._encoded is None or self._encoded[:2] != (start, size):
            with torch.no_grad():
                features = self.model.embed_audio(self.mel_window(start, size).unsqueeze(0))
            self._encoded = (start, size, features[0])
        return self._encoded[2]

    def _on_device(self, mel: Tensor) -> Tensor:
        return mel.to(self.model.device).to(self.dtype)


def _takes_features(model: "Whisper") -> bool:
    """Whether the model's methods are ours, which take audio features in place of a log-mel.

    A method from elsewhere may know of no features, and hooks in the encoder may count on its every run.
    """
    from .model import Whisper

    stock = (
        isinstance(model, Whisper) and not {"decode", "detect_language", "embed_audio"} & vars(model).keys()
    )
    return (
        stock
        and type(model).decode is decoding.decode
        and type(model).detect_language is decoding.detect_language
        and getattr(type(model).embed_audio, "__module__", None) == Whisper.__module__
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.encoder.modules())
    )


def _language(recording: _Recording, verbose: bool | None) -> str:
    """The most probable language of the first 30 s."""
    model = recording.model
    if not model.is_multilingual:
        return "en"
    if verbose:
        print("Detecting language using up to the first 30 seconds. Use `--language` to specify the language")
    # Past the recording's end this has the silence that was appended, where the loop's windows have zeros.
    _, found = model.detect_language(recording.window(0, N_FRAMES))
    probs = cast(dict[str, float], found)
    language = max(probs, key=probs.__getitem__)
    if verbose is not None:
        print(f"Detected language: {LANGUAGES[language].title()}")
    return language


def _temperatures(temperature: Any) -> tuple[float, ...]:
    temperatures = (temperature,) if isinstance(temperature, Real) else tuple(temperature)
    if not temperatures:
        raise ValueError("temperature is empty, expected a number or several")
    return temperatures


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


# ----------------------------------------------------------------------------------------------------
# The loop over the windows
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    """The keywords of `transcribe` that act on every window."""

    verbose: bool | None
    temperatures: tuple[float, ...]
    compression_ratio_threshold: float | None
    logprob_threshold: float | None
    no_speech_threshold: float | None
    condition_on_previous_text: bool
    initial_prompt: str | None
    carry_initial_prompt: bool
    word_timestamps: bool
    prepend_punctuations: str
    append_punctuations: str
    hallucination_silence_threshold: float | None
    decode_options: dict[str, Any]

    def options_at(self, temperature: float, prompt: list[int]) -> DecodingOptions:
        """Beams are for temperature 0, several samples for any other."""
        unused = ("beam_size", "patience") if temperature > 0 else ("best_of",)
        options = {key: value for key, value in self.decode_options.items() if key not in unused}
        return DecodingOptions(**{**options, "prompt": prompt}, temperature=temperature)

    def failed(self, result: DecodingResult) -> bool:
        """Whether a higher temperature is to be tried."""
        improbable = self.logprob_threshold is not None and result.avg_logprob < self.logprob_threshold
        silent = self.no_speech_threshold is not None and result.no_speech_prob > self.no_speech_threshold
        if silent and improbable:
            return False
        limit = self.compression_ratio_threshold
        return improbable or (limit is not None and result.compression_ratio > limit)

    def silent(self, result: DecodingResult) -> bool:
        """Whether the window is passed over: it has no speech, and what was decoded is not convincing."""
        if self.no_speech_threshold is None or not result.no_speech_prob > self.no_speech_threshold:
            return False
        return self.logprob_threshold is None or not result.avg_logprob > self.logprob_threshold


@dataclass(frozen=True)
class _Window:
    """Frames [start, start + size) of the recording."""

    start: int
    size: int

    @property
    def time(self) -> float:
        return self.start * HOP_LENGTH / SAMPLE_RATE

    @property
    def duration(self) -> float:
        return self.size * HOP_LENGTH / SAMPLE_RATE

    @property
    def full_end_time(self) -> float:
        """Where 30 seconds would end, however short the window is."""
        return (self.start + N_FRAMES) * HOP_LENGTH / SAMPLE_RATE

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass
class _Transcription:
    """What was transcribed so far, and what the next window depends on."""

    recording: _Recording
    tokenizer: Tokenizer
    settings: _Settings
    segments: list[Segment] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    initial_prompt: list[int] = field(default_factory=list)
    prompt_reset_since: int = 0
    last_speech: float = 0.0

    def __post_init__(self) -> None:
        dims = self.recording.model.dims
        self.frames_per_token = exact_div(N_FRAMES, dims.n_audio_ctx)
        self.seconds_per_token = self.frames_per_token * HOP_LENGTH / SAMPLE_RATE
        if self.settings.initial_prompt is not None:
            self.initial_prompt = self.tokenizer.encode(" " + self.settings.initial_prompt.strip())
        self.tokens.extend(self.initial_prompt)
        self.remaining_prompt = dims.n_text_ctx // 2 - 1 - len(self.initial_prompt)

    def text(self) -> str:
        return self.tokenizer.decode(self.tokens[len(self.initial_prompt) :])

    def run(self, clips: list[tuple[int, int]]) -> None:
        content = self.recording.content_frames
        # Called by its module: front ends replace tqdm.tqdm there to show the progress themselves.
        with tqdm.tqdm(total=content, unit="frames", disable=self.settings.verbose is not False) as progress:
            for clip_start, clip_end in clips:
                seek = clip_start
                while seek < clip_end:
                    window = _Window(seek, min(N_FRAMES, content - seek, clip_end - seek))
                    next_seek, emitted = self._step(window)
                    if next_seek <= seek:  # a decoder other than ours that answers with times of no length
                        next_seek = window.end
                    seek = next_seek
                    if emitted:
                        progress.update(min(content, seek) - window.start)

    def _step(self, window: _Window) -> tuple[int, bool]:
        """Transcribes one window. Returns the frame to go on from and whether the window was not skipped."""
        settings = self.settings
        result = self._decode(window)
        if settings.silent(result):
            return window.end, False
        segments, seek, to_the_end = self._split(window, result)
        if settings.word_timestamps:
            self._add_words(window, segments)
            seek, skipped = self._seek_by_words(window, segments, seek, to_the_end)
            if skipped:
                return seek, False
            last_end = get_end(segments)
            self.last_speech = self.last_speech if last_end is None else last_end
        if settings.verbose:
            for segment in segments:
                start, end = format_timestamp(segment["start"]), format_timestamp(segment["end"])
                print(make_safe(f"[{start} --> {end}] {segment['text']}"))
        self._keep(segments)
        if not settings.condition_on_previous_text or result.temperature > 0.5:
            self.prompt_reset_since = len(self.tokens)
        return seek, True

    def _prompt(self) -> list[int]:
        if not self.settings.carry_initial_prompt:
            return self.tokens[self.prompt_reset_since :]
        since = max(len(self.initial_prompt), self.prompt_reset_since)
        return self.initial_prompt + self.tokens[since:][-self.remaining_prompt :]

    def _decode(self, window: _Window) -> DecodingResult:
        """The result at the first temperature that passes the thresholds, else at the last."""
        prompt = self._prompt()
        for temperature in self.settings.temperatures:
            options = self.settings.options_at(temperature, prompt)
            audio = self.recording.window(window.start, window.size)
            result = cast(DecodingResult, self.recording.model.decode(audio, options))
            if not self.settings.failed(result):
                break
        return result

    def _split(self, window: _Window, result: DecodingResult) -> tuple[list[Segment], int, bool]:
        """Cuts a result between two timestamps in a row.

        Returns the segments, the frame to go on from, and whether the window is done to its end: a single
        timestamp at the end says that no speech follows; otherwise what follows the last cut is unfinished.
        """
        begin = self.tokenizer.timestamp_begin
        tokens = [int(token) for token in result.tokens]
        timed = [token >= begin for token in tokens]
        to_the_end = timed[-2:] == [False, True]
        cuts = [i for i, (before, this) in enumerate(pairwise(timed), start=1) if before and this]
        if not cuts:
            last = next((token - begin for token in reversed(tokens) if token >= begin), 0)
            duration = last * self.seconds_per_token if last else window.duration
            segment = self._segment(window, window.time, window.time + duration, tokens, result)
            return [segment], window.end, to_the_end

        if to_the_end:
            cuts.append(len(tokens))
        segments = []
        for first, behind in pairwise([0, *cuts]):
            start = window.time + (tokens[first] - begin) * self.seconds_per_token
            end = window.time + (tokens[behind - 1] - begin) * self.seconds_per_token
            segments.append(self._segment(window, start, end, tokens[first:behind], result))
        if to_the_end:
            return segments, window.end, True
        return segments, window.start + (tokens[cuts[-1] - 1] - begin) * self.frames_per_token, False

    def _segment(
        self, window: _Window, start: float, end: float, tokens: list[int], result: DecodingResult
    ) -> Segment:
        return {
            "seek": window.start,
            "start": start,
            "end": end,
            "text": self.tokenizer.decode([token for token in tokens if token < self.tokenizer.eot]),
            "tokens": tokens,
            "temperature": result.temperature,
            "avg_logprob": result.avg_logprob,
            "compression_ratio": result.compression_ratio,
            "no_speech_prob": result.no_speech_prob,
        }

    def _add_words(self, window: _Window, segments: list[Segment]) -> None:
        stock = add_word_timestamps is _ADD_WORDS and timing.find_alignment is _FIND_ALIGNMENT
        audio = self.recording.window if stock else self.recording.mel_window
        add_word_timestamps(
            segments=segments,
            model=self.recording.model,
            tokenizer=self.tokenizer,
            mel=audio(window.start, window.size),
            num_frames=window.size,
            prepend_punctuations=self.settings.prepend_punctuations,
            append_punctuations=self.settings.append_punctuations,
            last_speech_timestamp=self.last_speech,
        )

    def _seek_by_words(
        self, window: _Window, segments: list[Segment], seek: int, to_the_end: bool
    ) -> tuple[int, bool]:
        """The frame to go on from by the words' times, and whether the window is to be skipped up to there.

        With a silence threshold it also drops, from `segments`, what looks hallucinated beside silence.
        """
        threshold = self.settings.hallucination_silence_threshold
        last_end = get_end(segments)
        if not to_the_end and last_end is not None and last_end > window.time:
            seek = round(last_end * FRAMES_PER_SECOND)
            if threshold is not None and not window.full_end_time - last_end > threshold:
                seek = window.end
        if threshold is None:
            return seek, False

        first = _next_with_words(segments)
        if first is not None and _is_anomaly(first):
            gap = first["start"] - window.time
            silent_frames = round(gap * FRAMES_PER_SECOND)
            if gap > threshold and silent_frames > 0:
                return window.start + silent_frames, True

        cut = self._hallucination(window, segments, threshold)
        if cut is not None:
            start, end = segments[cut]["start"], segments[cut]["end"]
            seek = round(max(window.time + 1, start) * FRAMES_PER_SECOND)
            if self.recording.duration - end < threshold:
                seek = self.recording.content_frames
            del segments[cut:]
        return seek, False

    def _hallucination(self, window: _Window, segments: list[Segment], threshold: float) -> int | None:
        """The first segment of improbable words with silence, or more such words, on both sides."""
        last_end = self.last_speech
        for i, segment in enumerate(segments):
            if not segment["words"]:
                continue
            start, end = segment["start"], segment["end"]
            if _is_anomaly(segment):
                following = _next_with_words(segments[i + 1 :])
                next_start = window.time + window.duration
                if following is not None:
                    next_start = following["words"][0]["start"]
                before = start - last_end > threshold or start < threshold or start - window.time < 2.0
                after = (
                    next_start - end > threshold or _is_anomaly(following) or window.full_end_time - end < 2.0
                )
                if before and after:
                    return i
            last_end = end
        return None

    def _keep(self, segments: list[Segment]) -> None:
        """Adds the segments to the result; those of no length or no text are emptied first."""
        for segment in segments:
            if segment["start"] == segment["end"] or segment["text"].strip() == "":
                segment.update(text="", tokens=[], words=[])
            self.segments.append({"id": len(self.segments), **segment})
            self.tokens.extend(segment["tokens"])


def _word_anomaly(word: Word) -> float:
    """How much a word is unlike speech: improbable, very short or very long."""
    duration = word["end"] - word["start"]
    score = 1.0 if word.get("probability", 0.0) < 0.15 else 0.0
    if duration < 0.133:
        score += (0.133 - duration) * 15
    if duration > 2.0:
        score += duration - 2.0
    return score


def _is_anomaly(segment: Segment | None) -> bool:
    if segment is None or not segment["words"]:
        return False
    # A substring test: runs of marks count as punctuation, as does an empty word.
    words = [word for word in segment["words"] if word["word"] not in _PREPENDED + _APPENDED][:8]
    score = sum(_word_anomaly(word) for word in words)
    return score >= 3 or score + 0.01 >= len(words)


def _next_with_words(segments: list[Segment]) -> Segment | None:
    return next((segment for segment in segments if segment["words"]), None)


# ----------------------------------------------------------------------------------------------------
# The command line
# ----------------------------------------------------------------------------------------------------

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
    add("--logprob_threshold", type=optional_float, default=-1.0,
        help="an attempt fails if its mean log probability is below this")
    add("--no_speech_threshold", type=optional_float, default=0.6,
        help="a window is silent if its no-speech probability is above this and logprob_threshold failed it")
    add("--word_timestamps", type=str2bool, default=False, help="find the time of every word")
    add("--prepend_punctuations", default=_PREPENDED, help="marks that belong to the word after them")
    add("--append_punctuations", default=_APPENDED, help="marks that belong to the word before them")
    add("--highlight_words", type=str2bool, default=False,
        help="underline each word as it is spoken in srt and vtt; needs --word_timestamps True")
    add("--max_line_width", type=optional_int, default=None,
        help="most characters in a line of a subtitle; needs --word_timestamps True")
    add("--max_line_count", type=optional_int, default=None,
        help="most lines in a subtitle; needs --word_timestamps True and --max_line_width")
    add("--max_words_per_line", type=optional_int, default=None,
        help="most words in a line; needs --word_timestamps True, unused with --max_line_width")
    add("--threads", type=optional_int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    add("--clip_timestamps", default="0",
        help="seconds start,end,start,end,... of what to transcribe; the last end may be left out")
    add("--hallucination_silence_threshold", type=optional_float,
        help="seconds of silence beyond which doubtful words are skipped; needs --word_timestamps True")
    # fmt: on
    return parser


def cli() -> None:
    """The command `torchwhisper`. Exits with 1 if a recording had to be skipped, 2 for wrong arguments."""
    try:
        status = _run(_parser())
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        status = 130
    if status != 0:
        sys.exit(status)


def _run(parser: argparse.ArgumentParser) -> int:
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
    temperature = _fallbacks(args.pop("temperature"), args.pop("temperature_increment_on_fallback"))
    if (threads := args.pop("threads")) is not None and threads > 0:
        torch.set_num_threads(threads)

    from . import load_model

    device, model_dir = args.pop("device"), args.pop("model_dir")
    try:
        os.makedirs(output_dir, exist_ok=True)
    except OSError as error:
        return _fail(f"Cannot write to {output_dir}: {_sentence(error)}")
    try:
        model = load_model(model_name, device=device, download_root=model_dir)
    except Exception as error:
        said = _sentence(error)
        return _fail(said if model_name in said else f"Model {model_name} cannot be loaded: {said}")

    writer = get_writer(args.pop("output_format"), output_dir)
    layout = {option: args.pop(option) for option in _WORD_OPTIONS}
    status = 0
    for path in args.pop("audio"):
        try:
            writer(transcribe(model, path, temperature=temperature, **args), path, **layout)
        except Exception as error:
            status = _fail(f"Skipping {path} due to {type(error).__name__}: {_sentence(error)}")
    return status


def _check(parser: argparse.ArgumentParser, args: dict[str, Any]) -> None:
    """Refuses options that do not go together, and warns of those that do nothing."""
    if not args["word_timestamps"]:
        for option in _WORD_OPTIONS:
            if args[option]:
                parser.error(f"--{option} requires --word_timestamps True")
    increment = args["temperature_increment_on_fallback"]
    if increment is not None and not increment > 0:
        parser.error(
            f"--temperature_increment_on_fallback is {increment}, expected a positive number or None"
        )
    if args["max_line_count"] and not args["max_line_width"]:
        warnings.warn("--max_line_count has no effect without --max_line_width", stacklevel=1)
    if args["max_words_per_line"] and args["max_line_width"]:
        warnings.warn("--max_words_per_line has no effect with --max_line_width", stacklevel=1)


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


if __name__ == "__main__":
    cli()
