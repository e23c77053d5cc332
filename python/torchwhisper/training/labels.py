"""From what is said to the tokens that the model reads and those that it has to write."""

from typing import NamedTuple

from ..audio import CHUNK_LENGTH, TOKENS_PER_SECOND
from ..tokenizer import Tokenizer
from .loss import IGNORED

# What a timestamp token counts: the encoder's frames of 20 ms.
_STEP = 1 / TOKENS_PER_SECOND
_LAST = CHUNK_LENGTH * TOKENS_PER_SECOND


class Labels(NamedTuple):
    """tokens: what the decoder reads. targets: what it has to write at each of them, or IGNORED."""

    tokens: list[int]
    targets: list[int]


Segment = tuple[float, float, str]


def build_labels(
    tokenizer: Tokenizer,
    n_text_ctx: int,
    text: str,
    segments: tuple[Segment, ...] = (),
    previous: str | None = None,
) -> Labels:
    """One sequence as openai-whisper's models were trained on it:

        <|startofprev|> previous <|startoftranscript|> language task <|notimestamps|> text <|endoftext|>

    Prompt and start are read only; from the language on everything is learnt, the end too.

    Args:
        tokenizer: of the language and task.
        segments: (start, end, text) in seconds; where there are any, they are written with their times in
            place of `text`.
        previous: a prompt; as much of its end as fits in half of the context is used.

    Raises:
        ValueError: the sequence is longer than `n_text_ctx`, or a text has a special token in it.
    """
    prompt: list[int] = []
    if previous and previous.strip():
        kept = n_text_ctx // 2 - 1
        prompt = [tokenizer.sot_prev, *_encoded(tokenizer, previous)[-kept:]]
    body = _timed(tokenizer, segments) if segments else _untimed(tokenizer, text)
    sequence = [*prompt, *body, tokenizer.eot]
    if prompt and len(sequence) - 1 > n_text_ctx:
        return build_labels(tokenizer, n_text_ctx, text, segments)
    if len(sequence) - 1 > n_text_ctx:
        raise ValueError(f"the label has {len(sequence) - 1} tokens, the model takes at most {n_text_ctx}")
    targets = [IGNORED] * len(prompt) + sequence[len(prompt) + 1 :]
    return Labels(sequence[:-1], targets)


def _untimed(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*tokenizer.sot_sequence_including_notimestamps, *_encoded(tokenizer, text)]


def _timed(tokenizer: Tokenizer, segments: tuple[Segment, ...]) -> list[int]:
    tokens = list(tokenizer.sot_sequence)
    for start, end, text in segments:
        tokens += [_time(tokenizer, start), *_encoded(tokenizer, text), _time(tokenizer, end)]
    return tokens


def _time(tokenizer: Tokenizer, seconds: float) -> int:
    # Times may lie a little behind the end of a recording, and there are no tokens behind that of the window.
    return tokenizer.timestamp_begin + min(round(seconds / _STEP), _LAST)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    text = text.strip()
    if not text:
        return []
    if "<|" in text and (special := [token for token in tokenizer.special_tokens if token in text]):
        raise ValueError(f"the text has the special token {special[0]} in it")
    return tokenizer.encode(" " + text)
