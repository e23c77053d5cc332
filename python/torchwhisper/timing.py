"""Word timestamps: which frames of audio the decoder looked at while it read each token.

Names, arguments and results are those of openai-whisper's whisper/timing.py; the loops run in C++.
"""

import itertools
import math
import subprocess  # noqa: F401
import warnings  # noqa: F401
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List, NamedTuple, cast  # noqa: F401, UP035

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _C, _engine
from .audio import HOP_LENGTH, SAMPLE_RATE, TOKENS_PER_SECOND
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .model import Whisper

_Array = npt.NDArray[Any]
_LONGEST_MEDIAN = 0.7  # seconds; a word longer than twice the median word is cut at sentence boundaries
_SENTENCE_END_MARKS = ".。!！?？"  # noqa: RUF001


def median_filter(x: Tensor, filter_width: int) -> Tensor:
    """Median filter along the last dimension of `x`, mirrored at the ends. Source: whisper/timing.py.

    Rows of at most filter_width // 2 numbers come back as they are. NaN counts as the largest number.
    Raises AssertionError if filter_width is not odd.
    """
    side = filter_width // 2
    if x.shape[-1] <= side:
        return x
    _check_width(filter_width)
    tracked = x.requires_grad and torch.is_grad_enabled()
    if type(x) is Tensor and x.is_cpu and x.is_floating_point() and not tracked:
        return _C.median_filter(x, filter_width)
    from .triton_ops import median_filter_cuda

    rows = x.reshape(1, math.prod(x.shape[:-1]), x.shape[-1])
    return median_filter_cuda(F.pad(rows, (side, side), mode="reflect"), filter_width).reshape(x.shape)


def _check_width(filter_width: int) -> None:
    assert filter_width > 0 and filter_width % 2 == 1, "`filter_width` should be an odd number"


def backtrace(trace: _Array) -> _Array:
    """The path that the moves of `trace` (0 diagonal, 1 down, 2 right) take to its last cell.

    trace: [rows + 1, columns + 1]; its first row and column are overwritten, as upstream does.
    Returns int64 [2, length]. Raises ValueError on another move. Source: whisper/timing.py.
    """
    trace[0, :] = 2
    trace[:, 0] = 1
    moves = np.where(np.isin(trace, (0, 1, 2)), trace, -1).astype(np.int8)
    return _C.backtrace(torch.from_numpy(moves)).numpy()


def dtw_cpu(x: _Array) -> _Array:
    """The cheapest monotone path through the costs `x` [rows, columns]; ties go to the right.

    Returns int64 [2, length]: row and column of every step. Source: whisper/timing.py.
    """
    return _C.dtw(torch.from_numpy(np.array(x, dtype=np.float64)), _C.Control()).numpy()


def dtw_cuda(x: Tensor, BLOCK_SIZE: int = 1024) -> _Array:
    """dtw() of a tensor on a GPU. The path is found on the CPU, with no limit on the number of rows."""
    return dtw(x)


def dtw(x: Tensor) -> _Array:
    """dtw_cpu() of a tensor on any device. Source: whisper/timing.py."""
    return _C.dtw(x, _C.Control()).numpy()


_MEDIAN_FILTER, _DTW = median_filter, dtw


@dataclass
class WordTiming:
    """A word, its tokens, its start and end in seconds from the start of the window, its probability."""

    word: str
    tokens: list[int]
    start: float
    end: float
    probability: float


def find_alignment(
    model: "Whisper",
    tokenizer: Tokenizer,
    text_tokens: list[int],
    mel: Tensor,
    num_frames: int,
    *,
    medfilt_width: int = 7,
    qk_scale: float = 1.0,
) -> list[WordTiming]:
    """When each word of `text_tokens` is spoken. Source: whisper/timing.py.

    mel: a log-mel window (n_mels, frames), or its audio features (n_audio_ctx, n_audio_state), with which
        the encoder does not run again.
    num_frames: how many frames (10 ms) of the window are audio.
    medfilt_width: how many frames (20 ms) the attention weights are smoothed over; odd.
    qk_scale: factor on the attention scores before the softmax.
    """
    if len(text_tokens) == 0:
        return []
    sot = tokenizer.sot_sequence
    tokens = [*sot, tokenizer.no_timestamps, *text_tokens, tokenizer.eot]
    text = _Text(list(text_tokens), len(sot), tokenizer.eot)
    token_probabilities, qk = _attention(model, torch.tensor([tokens], device=model.device), mel, text)
    frames = len(range(qk.shape[-1])[: num_frames // 2])
    if frames > medfilt_width // 2:
        _check_width(medfilt_width)
    if median_filter is _MEDIAN_FILTER and dtw is _DTW:
        path = _C.align(qk, len(sot), frames, medfilt_width, qk_scale, _C.Control()).numpy()
    else:
        path = _align_by_parts(qk[..., :frames], len(sot), medfilt_width, qk_scale)
    return _word_timings(tokenizer, text_tokens, token_probabilities, path)


def _align_by_parts(qk: Tensor, sot_length: int, medfilt_width: int, qk_scale: float) -> _Array:
    """What the engine computes at once, for programs that replace one of its parts here."""
    weights = (qk * qk_scale).softmax(dim=-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    smooth = median_filter((weights - mean) / std, medfilt_width)
    return dtw(-smooth.mean(dim=0)[sot_length:-1])


class _Text(NamedTuple):
    tokens: list[int]
    after: int  # the index of the token whose logits say the first of them
    eot: int


def _attention(model: "Whisper", tokens: Tensor, mel: Tensor, text: _Text) -> tuple[list[float], Tensor]:
    """The probability of each token of the text, and scores [head, token, frame] of the alignment heads.

    tokens: [1, token], the text among them. mel: one window or its audio features, without a batch dimension.
    """
    heads = [(layer, head) for layer, head in model.alignment_heads.indices().T.tolist()]
    encoded = mel.shape == (model.dims.n_audio_ctx, model.dims.n_audio_state)
    with torch.no_grad(), _engine.session(model, mel.dtype) as engine:
        if engine is None:
            logits, qk = _hooked_attention(model, tokens, mel.unsqueeze(0), encoded, heads)
            return _C.token_probabilities(logits, text.tokens, text.after, text.eot), qk
        features = mel.unsqueeze(0) if encoded else model.embed_audio(mel.unsqueeze(0))
        memory = _engine.memory_of(engine, features)
        hidden, qk = _C.cross_attention(engine, tokens, memory, heads, _C.Control())
        hidden = hidden[text.after : text.after + len(text.tokens)]
        return _C.text_probabilities(engine, hidden, text.tokens, text.eot, _C.Control()), qk


def _hooked_attention(
    model: "Whisper", tokens: Tensor, mel: Tensor, encoded: bool, heads: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    from .model import disable_sdpa

    scores: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda module, inputs, outputs: scores.__setitem__(layer, outputs[-1][0])

    hooks = []
    try:
        for layer, block in enumerate(model.decoder.blocks):
            hooks.append(cast(nn.Module, block.cross_attn).register_forward_hook(keep(layer)))
        with disable_sdpa():
            logits = model.logits(tokens, mel) if encoded else model(mel, tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return logits[0], torch.stack([scores[layer][head] for layer, head in heads])


def _word_timings(
    tokenizer: Tokenizer, text_tokens: list[int], token_probabilities: list[float], path: _Array
) -> list[WordTiming]:
    probability = np.asarray(token_probabilities)
    words, word_tokens = tokenizer.split_to_word_tokens([*text_tokens, tokenizer.eot])
    if len(word_tokens) <= 1:  # the end token alone
        return []
    first_of_row = np.diff(path[0], prepend=path[0][:1] - 1) != 0
    row_times = path[1][first_of_row] / TOKENS_PER_SECOND
    bounds = [0, *itertools.accumulate(len(tokens) for tokens in word_tokens[:-1])]
    return [
        WordTiming(word, tokens, row_times[begin], row_times[end], probability[begin:end].mean())
        for word, tokens, begin, end in zip(words, word_tokens, bounds, bounds[1:], strict=False)
    ]


def merge_punctuations(alignment: list[WordTiming], prepended: str, appended: str) -> None:
    """Join punctuation to the word that it belongs to; what was joined stays, with an empty word.

    prepended: marks that belong to the word behind them, if a space is before them.
    appended: marks that belong to the word before them. Source: whisper/timing.py.
    """
    if not alignment:
        return
    following = alignment[-1]
    for mark in reversed(alignment[:-1]):
        if mark.word.startswith(" ") and mark.word.strip() in prepended:
            following.word, following.tokens = mark.word + following.word, mark.tokens + following.tokens
            mark.word, mark.tokens = "", []
        else:
            following = mark

    previous = alignment[0]
    for mark in alignment[1:]:
        if not previous.word.endswith(" ") and mark.word in appended:
            previous.word, previous.tokens = previous.word + mark.word, previous.tokens + mark.tokens
            mark.word, mark.tokens = "", []
        else:
            previous = mark


def add_word_timestamps(
    *,
    segments: list[dict[str, Any]],
    model: "Whisper",
    tokenizer: Tokenizer,
    mel: Tensor,
    num_frames: int,
    prepend_punctuations: str = "\"'“¿([{-",
    append_punctuations: str = "\"'.。,，!！?？:：”)]}、",  # noqa: RUF001
    last_speech_timestamp: float,
    **kwargs: Any,
) -> None:
    """Give each segment of one window its "words", and set its start and end by them.

    mel, num_frames, kwargs: as for find_alignment(). last_speech_timestamp: where the speech before this
    window ended, in seconds. Source: whisper/timing.py.
    """
    if not segments:
        return
    texts = [[token for token in segment["tokens"] if token < tokenizer.eot] for segment in segments]
    alignment = find_alignment(
        model, tokenizer, list(itertools.chain.from_iterable(texts)), mel, num_frames, **kwargs
    )
    typical = _typical_duration(alignment)
    _cut_at_sentence_ends(alignment, 2 * typical)
    merge_punctuations(alignment, prepend_punctuations, append_punctuations)

    offset = segments[0]["seek"] * HOP_LENGTH / SAMPLE_RATE
    timings = iter(alignment)
    for segment, text in zip(segments, texts, strict=True):
        segment["words"] = words = _take_words(timings, len(text), offset)
        if words:
            _shorten_after_pause(words, last_speech_timestamp, typical)
            _fit_segment(segment, words, typical)
            last_speech_timestamp = segment["end"]


def _typical_duration(alignment: list[WordTiming]) -> float:
    """The median length of the words that have one, in seconds; 0 if none has."""
    durations = np.array([timing.end - timing.start for timing in alignment])
    durations = durations[durations != 0]
    return min(_LONGEST_MEDIAN, float(np.median(durations))) if len(durations) else 0.0


def _cut_at_sentence_ends(alignment: list[WordTiming], longest: float) -> None:
    """Shorten a sentence mark, or the word behind one, which took up the pause."""
    if all(timing.end == timing.start for timing in alignment):
        return
    for previous, timing in itertools.pairwise(alignment):
        if timing.end - timing.start > longest:
            if timing.word in _SENTENCE_END_MARKS:
                timing.end = timing.start + longest
            elif previous.word in _SENTENCE_END_MARKS:
                timing.start = timing.end - longest


def _take_words(timings: Iterator[WordTiming], n_tokens: int, offset: float) -> list[dict[str, Any]]:
    """The words of the next n_tokens tokens, with times in the recording."""
    words = []
    while n_tokens > 0 and (timing := next(timings, None)) is not None:
        n_tokens -= len(timing.tokens)
        if timing.word:
            words.append(
                {
                    "word": timing.word,
                    "start": round(offset + timing.start, 2),
                    "end": round(offset + timing.end, 2),
                    "probability": timing.probability,
                }
            )
    return words


def _shorten_after_pause(words: list[dict[str, Any]], last_speech_timestamp: float, typical: float) -> None:
    """Shorten the first two words if they took up the pause before them."""
    longest = 2 * typical
    first, second = words[0], words[1] if len(words) > 1 else None
    if first["end"] - last_speech_timestamp <= typical * 4:
        return
    if first["end"] - first["start"] > longest or (second and second["end"] - first["start"] > longest * 2):
        if second and second["end"] - second["start"] > longest:
            first["end"] = second["start"] = max(second["end"] / 2, second["end"] - longest)
        first["start"] = max(0, first["end"] - longest)


def _fit_segment(segment: dict[str, Any], words: list[dict[str, Any]], typical: float) -> None:
    """Take start and end of the segment from its words, or the words' where those reach too far."""
    first, last = words[0], words[-1]
    if segment["start"] < first["end"] and segment["start"] - 0.5 > first["start"]:
        first["start"] = max(0, min(first["end"] - typical, segment["start"]))
    else:
        segment["start"] = first["start"]
    if segment["end"] > last["start"] and segment["end"] + 0.5 < last["end"]:
        last["end"] = max(last["start"] + typical, segment["end"])
    else:
        segment["end"] = last["end"]
