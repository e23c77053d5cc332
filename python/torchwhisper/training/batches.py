"""From utterances to the tensors of a training step, loaded ahead by threads while the model computes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..audio import HOP_LENGTH, N_SAMPLES_PER_TOKEN, SAMPLE_RATE, log_mel_spectrogram, pad_or_trim
from ..model import ModelDimensions
from ..tokenizer import LANGUAGES, Tokenizer, get_tokenizer
from .augment import SpecAugment
from .labels import Labels, Segment, build_labels
from .loss import IGNORED
from .manifest import ManifestError, Utterance
from .pack import PackOptions, Sizes, Window, plan_epoch

T = TypeVar("T")


@dataclass(frozen=True)
class DataOptions:
    """How windows are made of utterances.

    timestamps: probability that a window whose utterances have timestamps is written with them.
    prompts: probability that a window whose first utterance has a previous text starts with it.
    """

    pack: PackOptions = field(default_factory=PackOptions)
    timestamps: float = 0.0
    prompts: float = 0.0
    spec_augment: SpecAugment | None = None
    seed: int = 0


class Batch(NamedTuple):
    """mel: [batch, n_mels, frames] float32. tokens, targets: [batch, tokens] int64, see `labels.Labels`."""

    mel: Tensor
    tokens: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Dataset:
    """Utterances as the windows of one model."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        seconds: Sequence[float],
        dims: ModelDimensions,
        options: DataOptions | None = None,
    ) -> None:
        """seconds: of every utterance, see `manifest.check_audio`.

        Raises:
            ManifestError: a label is too long for the model, or of a language that the model does not know,
                or of none where the model needs one.
        """
        self.utterances, self.options, self.dims = utterances, options or DataOptions(), dims
        self.n_samples = dims.n_audio_ctx * N_SAMPLES_PER_TOKEN
        self._multilingual = dims.n_vocab >= 51865
        self._num_languages = dims.n_vocab - 51765 - int(self._multilingual)
        self._sizes = Sizes(seconds, [self._tokens_of(utterance) for utterance in utterances])

    def tokenizer(self, utterance: Utterance) -> Tokenizer:
        return _tokenizer(self._multilingual, self._num_languages, utterance.language, utterance.task)

    def windows(self, epoch: int) -> list[Window]:
        """Those of an epoch, in the order of training."""
        # The start and the end of a sequence take up to five tokens.
        room = (self.n_samples / SAMPLE_RATE, self.dims.n_text_ctx - 5)
        seed = (self.options.seed, epoch)
        return plan_epoch(self.utterances, self._sizes, room, self.options.pack, seed)

    def example(self, window: Window, seed: tuple[int, ...]) -> tuple[Tensor, Labels]:
        """The log-mel spectrogram [n_mels, frames] and the labels of a window; draws come from `seed`."""
        random = np.random.default_rng((self.options.seed, *seed))
        members = [self.utterances[i] for i in window.members]
        timed = random.uniform() < self.options.timestamps
        prompted = random.uniform() < self.options.prompts
        segments = _timed_segments(members, window.starts) if timed else ()
        labels = build_labels(
            self.tokenizer(members[0]),
            self.dims.n_text_ctx,
            " ".join(member.text for member in members if member.text),
            segments,
            members[0].previous if prompted else None,
        )
        samples = np.zeros(self.n_samples, np.float32)
        end = 0
        for member, start in zip(members, window.starts, strict=True):
            own = member.load()[: self.n_samples]
            first = round(start * SAMPLE_RATE)
            end = min(first + len(own), self.n_samples)
            samples[first:end] = own[: end - first]
        mel = log_mel_spectrogram(samples, self.dims.n_mels)
        if self.options.spec_augment is not None:
            mel = self.options.spec_augment.apply(mel, max(1, end // HOP_LENGTH), random)
        return mel, labels

    def mel(self, utterance: Utterance) -> Tensor:
        """The log-mel spectrogram of one utterance in a window of its own."""
        return log_mel_spectrogram(pad_or_trim(utterance.load(), self.n_samples), self.dims.n_mels)

    def batch(self, windows: Sequence[Window], seeds: Sequence[tuple[int, ...]]) -> Batch:
        """A batch of windows; of none, a silent one that counts for nothing, for ranks without work."""
        if not windows:
            mel = torch.zeros(1, self.dims.n_mels, self.n_samples // HOP_LENGTH)
            return Batch(mel, torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORED))
        examples = [self.example(*given) for given in zip(windows, seeds, strict=True)]
        mels, labels = [mel for mel, _ in examples], [label for _, label in examples]
        longest = max(len(label.tokens) for label in labels)
        eot = self.tokenizer(self.utterances[0]).eot
        tokens = torch.full((len(labels), longest), eot)
        targets = torch.full((len(labels), longest), IGNORED)
        for row, label in enumerate(labels):
            tokens[row, : len(label.tokens)] = torch.tensor(label.tokens)
            targets[row, : len(label.targets)] = torch.tensor(label.targets)
        return Batch(torch.stack(mels), tokens, targets)

    def _tokens_of(self, utterance: Utterance) -> int:
        self._check_language(utterance)
        tokenizer = self.tokenizer(utterance)
        try:
            both = [
                build_labels(tokenizer, self.dims.n_text_ctx, utterance.text, segments)
                for segments in {(), utterance.segments}
            ]
            if self.options.prompts and utterance.previous:
                build_labels(tokenizer, self.dims.n_text_ctx, utterance.text, (), utterance.previous)
        except ValueError as error:
            raise ManifestError(f"{utterance.where}: {error}") from None
        start = len(tokenizer.sot_sequence)
        return max(len(labels.tokens) - start for labels in both)

    def _check_language(self, utterance: Utterance) -> None:
        known = tuple(LANGUAGES)[: self._num_languages] if self._multilingual else ("en",)
        if self._multilingual and utterance.language is None:
            raise ManifestError(
                f"{utterance.where}: no language, and the model knows many: add it, or give --language"
            )
        if utterance.language not in (None, *known):
            knows = f"{len(known)} others" if self._multilingual else "English only"
            raise ManifestError(
                f"{utterance.where}: language is {utterance.language!r}, the model knows {knows}"
            )
        if utterance.task == "translate" and not self._multilingual:
            raise ManifestError(f"{utterance.where}: task is 'translate', the model knows English only")


def _timed_segments(members: Sequence[Utterance], starts: Sequence[float]) -> tuple[Segment, ...]:
    """The segments of a window; none where an utterance tells no times."""
    if not all(member.segments for member in members):
        return ()
    return tuple(
        (start + first, start + last, text)
        for member, start in zip(members, starts, strict=True)
        for first, last, text in member.segments
    )


@cache
def _tokenizer(multilingual: bool, num_languages: int, language: str | None, task: str) -> Tokenizer:
    return get_tokenizer(multilingual, num_languages=num_languages, language=language, task=task)


def prefetched(jobs: Iterator[Callable[[], T]], workers: int, ahead: int) -> Iterator[T]:
    """The results of the jobs in their order, computed by `workers` threads, at most `ahead` ahead."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(job))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
