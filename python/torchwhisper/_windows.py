"""Window after window: what is decoded becomes segments, and says where the next window begins.

Source: openai-whisper's `whisper/transcribe.py`, the loop of `transcribe`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from numbers import Real
from typing import Any

from ._lock_step import Attempt, Stream
from ._recording import Recording
from .audio import FRAMES_PER_SECOND, HOP_LENGTH, N_FRAMES, SAMPLE_RATE
from .decoding import DecodingOptions, DecodingResult
from .tokenizer import Tokenizer
from .utils import exact_div, get_end

Segment = dict[str, Any]
Word = dict[str, Any]

PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001


@dataclass(frozen=True)
class Settings:
    """The keywords of `transcribe`."""

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
    clip_timestamps: str | Sequence[float]
    hallucination_silence_threshold: float | None
    decode_options: dict[str, Any]

    @classmethod
    def of(cls, *, temperature: Any, **keywords: Any) -> "Settings":
        """Of the keywords themselves; those that `transcribe` does not know are for `DecodingOptions`."""
        names = {one.name for one in fields(cls)}
        return cls(
            **{key: value for key, value in keywords.items() if key in names},
            temperatures=_temperatures(temperature),
            decode_options={key: value for key, value in keywords.items() if key not in names},
        )

    @property
    def independent(self) -> bool:
        """Whether a clip is transcribed without any knowledge of the one before."""
        follows = self.condition_on_previous_text or self.word_timestamps
        return not follows and self.initial_prompt is None

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
class Window:
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
class Transcription:
    """What was transcribed so far, and what the next window depends on."""

    recording: Recording
    tokenizer: Tokenizer
    settings: Settings
    show: Callable[[Segment], object]  # prints one, if that is asked for
    add_words: Callable[["Transcription", Window, list[Segment]], None]
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

    def spoken(self) -> list[int]:
        """The tokens of all segments."""
        return self.tokens[len(self.initial_prompt) :]

    def run(self, clips: list[tuple[int, int]], advance: Callable[[int], object]) -> Stream[None]:
        """Transcribes [start, end) in frames. advance: told how many frames are done with."""
        content = self.recording.content_frames
        for clip_start, clip_end in clips:
            seek = clip_start
            while seek < clip_end:
                window = Window(seek, min(N_FRAMES, content - seek, clip_end - seek))
                next_seek, emitted = yield from self._step(window)
                if next_seek <= seek:  # a decoder other than ours that answers with times of no length
                    next_seek = window.end
                seek = next_seek
                if emitted:
                    advance(min(content, seek) - window.start)

    def _step(self, window: Window) -> Stream[tuple[int, bool]]:
        """Transcribes one window. Returns the frame to go on from and whether the window was not skipped."""
        settings = self.settings
        result = yield from self._decode(window)
        if settings.silent(result):
            return window.end, False
        segments, seek, to_the_end = self._split(window, result)
        if settings.word_timestamps:
            self.add_words(self, window, segments)
            seek, skipped = self._seek_by_words(window, segments, seek, to_the_end)
            if skipped:
                return seek, False
            last_end = get_end(segments)
            self.last_speech = self.last_speech if last_end is None else last_end
        if settings.verbose:
            for segment in segments:
                self.show(segment)
        self._keep(segments)
        if not settings.condition_on_previous_text or result.temperature > 0.5:
            self.prompt_reset_since = len(self.tokens)
        return seek, True

    def _prompt(self) -> list[int]:
        if not self.settings.carry_initial_prompt:
            return self.tokens[self.prompt_reset_since :]
        since = max(len(self.initial_prompt), self.prompt_reset_since)
        return self.initial_prompt + self.tokens[since:][-self.remaining_prompt :]

    def _decode(self, window: Window) -> Stream[DecodingResult]:
        """The result at the first temperature that passes the thresholds, else at the last."""
        prompt = self._prompt()
        for temperature in self.settings.temperatures:
            options = self.settings.options_at(temperature, prompt)
            (answer,) = yield [Attempt(self.recording.window(window.start, window.size), options)]
            if isinstance(answer, Exception):
                raise answer
            result = answer
            if not self.settings.failed(result):
                break
        return result

    def _split(self, window: Window, result: DecodingResult) -> tuple[list[Segment], int, bool]:
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
        self, window: Window, start: float, end: float, tokens: list[int], result: DecodingResult
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

    def _seek_by_words(
        self, window: Window, segments: list[Segment], seek: int, to_the_end: bool
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

    def _hallucination(self, window: Window, segments: list[Segment], threshold: float) -> int | None:
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
            self.segments.append(segment)
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
    words = [word for word in segment["words"] if word["word"] not in PREPENDED + APPENDED][:8]
    score = sum(_word_anomaly(word) for word in words)
    return score >= 3 or score + 0.01 >= len(words)


def _next_with_words(segments: list[Segment]) -> Segment | None:
    return next((segment for segment in segments if segment["words"]), None)


def _temperatures(temperature: Any) -> tuple[float, ...]:
    temperatures = (temperature,) if isinstance(temperature, Real) else tuple(temperature)
    if not temperatures:
        raise ValueError("temperature is empty, expected a number or several")
    return temperatures
