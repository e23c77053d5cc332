"""From what is said to the tokens that the model reads and those that it has to write."""

from typing import NamedTuple

from ..audio import TOKENS_PER_SECOND
from ..tokenizer import Tokenizer
from .loss import IGNORED

# What a timestamp token counts: the encoder's frames of 20 ms.
_STEP = 1 / TOKENS_PER_SECOND


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
        ValueError: the sequence is longer than `n_text_ctx`.
    """
    prompt: list[int] = []
    if previous and previous.strip():
        kept = n_text_ctx // 2 - 1
        prompt = [tokenizer.sot_prev, *tokenizer.encode(" " + previous.strip())[-kept:]]
    body = _timed(tokenizer, segments) if segments else _untimed(tokenizer, text)
    sequence = [*prompt, *body, tokenizer.eot]
    if prompt and len(sequence) - 1 > n_text_ctx:
        return build_labels(tokenizer, n_text_ctx, text, segments)
    if len(sequence) - 1 > n_text_ctx:
        raise ValueError(f"the label has {len(sequence) - 1} tokens, the model takes at most {n_text_ctx}")
    targets = [IGNORED] * len(prompt) + sequence[len(prompt) + 1 :]
    return Labels(sequence[:-1], targets)


def _untimed(tokenizer: Tokenizer, text: str) -> list[int]:
    spoken = tokenizer.encode(" " + text.strip()) if text.strip() else []
    return [*tokenizer.sot_sequence_including_notimestamps, *spoken]


def _timed(tokenizer: Tokenizer, segments: tuple[Segment, ...]) -> list[int]:
    tokens = list(tokenizer.sot_sequence)
    for start, end, text in segments:
        tokens.append(tokenizer.timestamp_begin + round(start / _STEP))
        tokens += tokenizer.encode(" " + text.strip())
        tokens.append(tokenizer.timestamp_begin + round(end / _STEP))
    return tokens
