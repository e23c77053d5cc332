"""Error rates of a model as it will be used: real decoding in the C++ engine, with the live weights."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn

from ..decoding import DecodingOptions, DecodingResult, decode
from ..model import Whisper
from ..normalizers import BasicTextNormalizer, EnglishTextNormalizer
from .batches import Dataset, prefetched
from .distributed import Interrupted, RankError, Ranks, whole
from .lora import add_lora, has_lora, merge_lora
from .manifest import Utterance


@dataclass(frozen=True)
class Scores:
    """Error rates of words and characters, as written and after upstream's normalizers: 0.05 is 5 %.

    ser_normalized: the share of utterances with any error (sentence error rate).
    """

    wer: float
    cer: float
    wer_normalized: float
    cer_normalized: float
    ser_normalized: float
    n_utterances: int

    def row(self) -> dict[str, Any]:
        return asdict(self)


def plain_copy(model: Whisper, lora_rank: int = 0) -> Whisper:
    """The model in a form that the engine computes: adapters merged, shards gathered. A model that is plain
    already is returned itself. Every rank has to call this for a sharded one."""
    sharded = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    if not sharded and not has_lora(model):
        return model
    with torch.no_grad():
        if not sharded:
            return merge_lora(copy.deepcopy(model))
        copied = Whisper(model.dims)
        if lora_rank:
            add_lora(copied, lora_rank)
        copied.load_state_dict({name: whole(tensor).detach() for name, tensor in model.state_dict().items()})
        copied.register_buffer("alignment_heads", model.alignment_heads, persistent=False)
        copied.to(next(model.parameters()).device)
        return merge_lora(copied) if lora_rank else copied


def transcripts(
    model: Whisper,
    dataset: Dataset,
    utterances: Sequence[Utterance],
    batch_size: int,
    workers: int = 2,
    between: Callable[[], None] | None = None,
) -> list[str]:
    """What the model writes for each utterance in a window of its own: greedily, without timestamps, without
    a second try at another temperature. `between` is called before each batch."""
    texts = [""] * len(utterances)
    batches: list[list[int]] = []
    for kind in sorted({_kind(utterance) for utterance in utterances}):
        same = [i for i, utterance in enumerate(utterances) if _kind(utterance) == kind]
        batches += [same[i : i + batch_size] for i in range(0, len(same), batch_size)]

    def load(batch: list[int]) -> tuple[list[int], torch.Tensor]:
        return batch, torch.stack([dataset.mel(utterances[i]) for i in batch])

    jobs = (lambda batch=batch: load(batch) for batch in batches)
    for batch, mel in prefetched(jobs, workers, ahead=2 * workers):
        if between is not None:
            between()
        first = utterances[batch[0]]
        options = DecodingOptions(
            task=first.task,
            language=first.language,
            without_timestamps=True,
            fp16=model.device.type == "cuda",
        )
        results = cast(list[DecodingResult], decode(model, mel.to(model.device), options))
        for i, result in zip(batch, results, strict=True):
            texts[i] = result.text
    return texts


def _kind(utterance: Utterance) -> tuple[str, str]:
    return utterance.language or "", utterance.task


def evaluate(
    model: Whisper,
    dataset: Dataset,
    ranks: Ranks,
    batch_size: int,
    lora_rank: int = 0,
    between: Callable[[], None] | None = None,
) -> Scores:
    """Transcribes the utterances of a data set, shared among the ranks, and compares with their texts.

    between: called before each batch; raises `Interrupted` to stop the evaluation of all ranks.

    Raises:
        RuntimeError: on all ranks, where a recording cannot be read on one of them.
    """
    mine = list(dataset.utterances)[ranks.rank :: ranks.world]
    plain = plain_copy(model, lora_rank)
    found: list[tuple[Utterance, str]] | Exception
    try:
        with _evaluating(plain):
            written = transcripts(plain, dataset, mine, batch_size, between=between)
        found = list(zip(mine, written, strict=True))
    except Interrupted as stopped:
        found = stopped
    except Exception as error:
        found = RankError(f"{error}")
        found.__cause__ = error
    pairs: list[tuple[Utterance, str]] = []
    for of_rank in ranks.gather(found):
        if isinstance(of_rank, Exception):
            raise of_rank
        pairs += of_rank
    return score(pairs)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Any:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def score(pairs: Sequence[tuple[Utterance, str]]) -> Scores:
    """Error rates over all pairs of an utterance and what was written for it. Needs jiwer.

    The normalizer for other languages than English takes combining marks away, which some scripts cannot do
    without: look at the rates as written there.
    """
    try:
        import jiwer
    except ImportError:
        raise RuntimeError("evaluation needs jiwer: pip install jiwer") from None
    raw = [(utterance.text, text.strip()) for utterance, text in pairs]
    normal = [_normalized(utterance, text) for utterance, text in pairs]
    return Scores(
        wer=_rate(jiwer.wer, raw),
        cer=_rate(jiwer.cer, raw),
        wer_normalized=_rate(jiwer.wer, normal),
        cer_normalized=_rate(jiwer.cer, normal),
        ser_normalized=sum(text != written for text, written in normal) / max(1, len(normal)),
        n_utterances=len(pairs),
    )


def _rate(rate: Any, texts: list[tuple[str, str]]) -> float:
    # jiwer knows no rate for a reference without words.
    spoken = [pair for pair in texts if pair[0].strip()]
    if not spoken:
        return 0.0
    return float(rate([expected for expected, _ in spoken], [written for _, written in spoken]))


_ENGLISH = EnglishTextNormalizer()
_BASIC = BasicTextNormalizer()


def _normalized(utterance: Utterance, text: str) -> tuple[str, str]:
    english = utterance.language in (None, "en") or utterance.task == "translate"
    normalize: Any = _ENGLISH if english else _BASIC
    return normalize(utterance.text), normalize(text)
