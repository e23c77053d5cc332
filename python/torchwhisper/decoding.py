"""Decoding of 30-second windows, with openai-whisper's names (`whisper/decoding.py`).

`DecodingTask` and its parts are plain PyTorch and may be subclassed, replaced or patched. A task whose parts
are all stock runs in the C++ engine instead, when the model allows it (see `_engine`).
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Union, cast  # noqa: F401, UP035

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from . import _C, _compute_type, _engine, _finite
from .audio import CHUNK_LENGTH
from .tokenizer import Tokenizer, get_tokenizer
from .utils import compression_ratio

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from .model import Whisper


@torch.no_grad()
def detect_language(
    model: "Whisper", mel: Tensor, tokenizer: Tokenizer | None = None
) -> tuple[Tensor, list[dict[str, float]]] | tuple[Tensor, dict[str, float]]:
    """Detects the spoken language from what the model predicts after `<|startoftranscript|>`.

    Args:
        model: a multilingual model.
        mel: log-mel windows [batch, n_mels, 2 * n_audio_ctx] or one without the batch axis; audio features
            [batch, n_audio_ctx, n_audio_state] are taken as they are.
        tokenizer: the model's own where None.

    Returns:
        The ids of the most probable language tokens [batch] and, per item, the probability of each language
        code; for a single window a scalar and one dict.

    Raises:
        ValueError: the model has no language tokens.
    """
    if tokenizer is None:
        tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    if tokenizer.language is None or tokenizer.language_token not in tokenizer.sot_sequence:
        raise ValueError("This model doesn't have language tokens so it can't perform lang id")

    single = mel.ndim == 2
    features = mel.unsqueeze(0) if single else mel
    if features.shape[-2:] != (model.dims.n_audio_ctx, model.dims.n_audio_state):
        features = model.encoder(features)

    sot = torch.full((features.shape[0], 1), tokenizer.sot, dtype=torch.long, device=features.device)
    logits = model.logits(sot, features)[:, 0]
    not_a_language = torch.ones(logits.shape[-1], dtype=torch.bool)
    not_a_language[list(tokenizer.all_language_tokens)] = False
    logits[:, not_a_language] = -np.inf
    language_tokens = logits.argmax(dim=-1)

    codes = list(zip(tokenizer.all_language_tokens, tokenizer.all_language_codes, strict=False))
    probs = logits.softmax(dim=-1).cpu()
    language_probs = [{code: row[token].item() for token, code in codes} for row in probs]
    if single:
        return language_tokens[0], language_probs[0]
    return language_tokens, language_probs


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode a window. Defaults are the reference's."""

    task: str = "transcribe"  # "transcribe", "translate" (to English) or "lang_id"
    language: str | None = None  # detected where None

    temperature: float = 0.0
    sample_len: int | None = None  # most tokens to sample; half of the text context where None
    best_of: int | None = None  # independent samples at a temperature above 0
    beam_size: int | None = None  # beams of a beam search
    patience: float | None = None  # beam search collects round(beam_size * patience) finished sequences

    length_penalty: float | None = None  # exponent in [0, 1]; None divides by the length

    prompt: str | list[int] | None = None  # what was said before this window
    prefix: str | list[int] | None = None  # how this window's text begins

    suppress_tokens: str | Iterable[int] | None = "-1"  # token ids; -1 stands for the non-speech symbols
    suppress_blank: bool = True  # no blank and no end at the first position

    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0  # seconds

    fp16: bool = True


@dataclass(frozen=True)
class DecodingResult:
    """What was decoded from one window."""

    audio_features: Tensor  # [n_audio_ctx, n_audio_state]
    language: str
    language_probs: dict[str, float] | None = None  # with task "lang_id"
    tokens: list[int] = field(default_factory=list)  # with timestamps, without the end token
    text: str = ""
    avg_logprob: float = np.nan
    no_speech_prob: float = np.nan
    temperature: float = np.nan
    compression_ratio: float = np.nan


class Inference:
    """Runs the decoder for a search."""

    def logits(self, tokens: Tensor, audio_features: Tensor) -> Tensor:
        """Logits [batch, new tokens, n_vocab] of `tokens` [batch, all tokens so far]."""
        raise NotImplementedError

    def rearrange_kv_cache(self, source_indices: list[int]) -> None:
        """Row i of the cache becomes what row `source_indices[i]` was."""
        raise NotImplementedError

    def cleanup_caching(self) -> None:
        """Called when the search ends, also by an exception."""


class PyTorchInference(Inference):
    """Runs `model.decoder` with a cache that its hooks keep."""

    def __init__(self, model: "Whisper", initial_token_length: int) -> None:
        self.model = model
        self.initial_token_length = initial_token_length
        self.kv_cache: dict[torch.nn.Module, Tensor] = {}
        self.hooks: list[RemovableHandle] = []
        attentions = [cast(Any, block).attn for block in model.decoder.blocks]
        self.kv_modules: list[torch.nn.Module] = [a.key for a in attentions] + [a.value for a in attentions]

    def logits(self, tokens: Tensor, audio_features: Tensor) -> Tensor:
        if not self.kv_cache:
            self.kv_cache, self.hooks = self.model.install_kv_cache_hooks()
        if tokens.shape[-1] > self.initial_token_length:
            tokens = tokens[:, -1:]  # everything before is cached
        return cast(Tensor, self.model.decoder(tokens, audio_features, kv_cache=self.kv_cache))

    def cleanup_caching(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.kv_cache = {}
        self.hooks = []

    def rearrange_kv_cache(self, source_indices: list[int]) -> None:
        if source_indices == list(range(len(source_indices))):
            return
        for module in self.kv_modules:
            self.kv_cache[module] = self.kv_cache[module][source_indices].detach()


class SequenceRanker:
    """Chooses among the candidates of each window."""

    def rank(self, tokens: list[list[Tensor]], sum_logprobs: list[list[float]]) -> list[int]:
        """Index of the best candidate of each group."""
        raise NotImplementedError


class MaximumLikelihoodRanker(SequenceRanker):
    """The highest log probability per token, or per ((5 + length) / 6) ** length_penalty."""

    def __init__(self, length_penalty: float | None) -> None:
        self.length_penalty = length_penalty

    def rank(self, tokens: list[list[Tensor]], sum_logprobs: list[list[float]]) -> list[int]:
        scores = (
            [logprob / self._penalty(len(sequence)) for sequence, logprob in zip(*group, strict=True)]
            for group in zip(tokens, sum_logprobs, strict=True)
        )
        return [int(np.argmax(group)) for group in scores]

    def _penalty(self, length: int) -> float:
        if self.length_penalty is None:
            return length or 1  # an empty candidate is divided by one
        return float(((5 + length) / 6) ** self.length_penalty)


class TokenDecoder:
    """Selects the next tokens of a search."""

    def reset(self) -> None:
        """Called before a new search."""

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, bool]:
        """Extends every sequence by one token.

        Args:
            tokens: [n_batch, length so far].
            logits: [n_batch, n_vocab] for the next position.
            sum_logprobs: [n_batch], updated in place.

        Returns:
            Tokens [n_batch, length + 1], and whether the search is complete.
        """
        raise NotImplementedError

    def finalize(
        self, tokens: Tensor, sum_logprobs: Tensor
    ) -> tuple[Sequence[Sequence[Tensor]], list[list[float]]]:
        """Gives the candidates of each window.

        Args:
            tokens: [n_audio, n_group, length].
            sum_logprobs: [n_audio, n_group].

        Returns:
            Per window its candidates, each with an end token, and their log probabilities.
        """
        raise NotImplementedError


class GreedyDecoder(TokenDecoder):
    """Takes the most probable token, or samples at a temperature above 0."""

    def __init__(self, temperature: float, eot: int) -> None:
        self.temperature = temperature
        self.eot = eot

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, bool]:
        if self.temperature == 0:
            chosen = logits.argmax(dim=-1)
        else:
            chosen = Categorical(logits=logits / self.temperature).sample()  # type: ignore[no-untyped-call]

        ended = tokens[:, -1] == self.eot
        logprobs = F.log_softmax(logits.float(), dim=-1)
        sum_logprobs += logprobs[torch.arange(logprobs.shape[0]), chosen] * ~ended
        chosen[ended] = self.eot
        return torch.cat([tokens, chosen[:, None]], dim=-1), cast(bool, (chosen == self.eot).all())

    def finalize(
        self, tokens: Tensor, sum_logprobs: Tensor
    ) -> tuple[Sequence[Sequence[Tensor]], list[list[float]]]:
        ended = F.pad(tokens, (0, 1), value=self.eot)
        return cast(Sequence[Sequence[Tensor]], ended), sum_logprobs.tolist()


class BeamSearchDecoder(TokenDecoder):
    """Beam search with patience (arxiv 2204.05424)."""

    def __init__(self, beam_size: int, eot: int, inference: Inference, patience: float | None = None) -> None:
        self.beam_size = beam_size
        self.eot = eot
        self.inference = inference
        self.patience = patience or 1.0
        self.max_candidates: int = round(beam_size * self.patience)
        # Per window, the finished sequences and their log probabilities, best of each step first.
        self.finished_sequences: list[dict[tuple[int, ...], float]] | None = None
        assert self.max_candidates > 0, f"Invalid beam size ({beam_size}) or patience ({patience})"

    def reset(self) -> None:
        self.finished_sequences = None

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, bool]:
        if tokens.shape[0] % self.beam_size != 0:
            raise ValueError(f"{tokens.shape}[0] % {self.beam_size} != 0")
        n_audio = tokens.shape[0] // self.beam_size
        if self.finished_sequences is None:
            self.finished_sequences = [{} for _ in range(n_audio)]
        assert len(self.finished_sequences) == n_audio

        logprobs = F.log_softmax(logits.float(), dim=-1)
        kept: list[tuple[int, ...]] = []
        sources: list[int] = []
        for audio, finished in enumerate(self.finished_sequences):
            scores, origin = self._extend(audio, tokens, logprobs, sum_logprobs)
            beams = 0
            for sequence in sorted(scores, key=scores.__getitem__, reverse=True):
                if sequence[-1] == self.eot:
                    if len(finished) < self.max_candidates:
                        finished[sequence] = scores[sequence]
                    continue
                sum_logprobs[len(kept)] = scores[sequence]
                kept.append(sequence)
                sources.append(origin[sequence])
                beams += 1
                if beams == self.beam_size:
                    break

        self.inference.rearrange_kv_cache(sources)
        complete = all(len(finished) >= self.max_candidates for finished in self.finished_sequences)
        return torch.tensor(kept, device=tokens.device), complete

    def _extend(
        self, audio: int, tokens: Tensor, logprobs: Tensor, sum_logprobs: Tensor
    ) -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], int]]:
        # Equal sequences fall together here: at the first step all beams are the same.
        scores: dict[tuple[int, ...], float] = {}
        origin: dict[tuple[int, ...], int] = {}
        for row in range(audio * self.beam_size, (audio + 1) * self.beam_size):
            prefix = tuple(tokens[row].tolist())
            best, ids = logprobs[row].topk(self.beam_size + 1)
            for score, token in zip((sum_logprobs[row] + best).tolist(), ids.tolist(), strict=True):
                sequence = (*prefix, token)
                scores[sequence], origin[sequence] = score, row
        return scores, origin

    def finalize(
        self, preceding_tokens: Tensor, sum_logprobs: Tensor
    ) -> tuple[Sequence[Sequence[Tensor]], list[list[float]]]:
        assert self.finished_sequences is not None
        sum_logprobs = sum_logprobs.cpu()
        for i, finished in enumerate(self.finished_sequences):
            # Too few have finished: the best unfinished ones fill the places.
            for j in np.argsort(sum_logprobs[i].numpy())[::-1].tolist():
                if len(finished) >= self.beam_size:
                    break
                sequence = (*preceding_tokens[i, j].tolist(), self.eot)
                finished[sequence] = sum_logprobs[i][j].item()
        tokens = [[torch.tensor(sequence) for sequence in finished] for finished in self.finished_sequences]
        return tokens, [list(finished.values()) for finished in self.finished_sequences]


class LogitFilter:
    """Forbids tokens before the next one is selected."""

    def apply(self, logits: Tensor, tokens: Tensor) -> None:
        """Masks `logits` [n_batch, n_vocab] in place, given `tokens` [n_batch, length so far]."""
        raise NotImplementedError


class SuppressBlank(LogitFilter):
    """The first sampled token is neither a blank nor the end."""

    def __init__(self, tokenizer: Tokenizer, sample_begin: int) -> None:
        self.tokenizer = tokenizer
        self.sample_begin = sample_begin

    def apply(self, logits: Tensor, tokens: Tensor) -> None:
        if tokens.shape[1] == self.sample_begin:
            logits[:, [*self.tokenizer.encode(" "), self.tokenizer.eot]] = -np.inf


class SuppressTokens(LogitFilter):
    """These tokens never appear."""

    def __init__(self, suppress_tokens: Sequence[int]) -> None:
        self.suppress_tokens = list(suppress_tokens)

    def apply(self, logits: Tensor, tokens: Tensor) -> None:
        logits[:, self.suppress_tokens] = -np.inf


class ApplyTimestampRules(LogitFilter):
    """Timestamps come in pairs, never decrease, and are taken where they are together the most probable."""

    def __init__(
        self, tokenizer: Tokenizer, sample_begin: int, max_initial_timestamp_index: int | None
    ) -> None:
        self.tokenizer = tokenizer
        self.sample_begin = sample_begin
        self.max_initial_timestamp_index = max_initial_timestamp_index

    def apply(self, logits: Tensor, tokens: Tensor) -> None:
        begin = self.tokenizer.timestamp_begin
        if self.tokenizer.no_timestamps is not None:
            logits[:, self.tokenizer.no_timestamps] = -np.inf

        for k, sampled in enumerate(tokens[:, self.sample_begin :].tolist()):
            self._keep_pairs(logits[k], sampled)

        if tokens.shape[1] == self.sample_begin:
            logits[:, :begin] = -np.inf
            if self.max_initial_timestamp_index is not None:
                logits[:, begin + self.max_initial_timestamp_index + 1 :] = -np.inf

        logprobs = F.log_softmax(logits.float(), dim=-1)
        for k in range(tokens.shape[0]):
            if logprobs[k, begin:].logsumexp(dim=-1) > logprobs[k, :begin].max():
                logits[k, :begin] = -np.inf

    def _keep_pairs(self, logits: Tensor, sampled: list[int]) -> None:
        begin = self.tokenizer.timestamp_begin
        after_timestamp = len(sampled) >= 1 and sampled[-1] >= begin
        pair_complete = len(sampled) < 2 or sampled[-2] >= begin
        if after_timestamp and pair_complete:
            logits[begin:] = -np.inf
        elif after_timestamp:
            logits[: self.tokenizer.eot] = -np.inf

        last = next((token for token in reversed(sampled) if token >= begin), None)
        if last is not None:
            # Only the end of a segment may repeat a time: no segment without length, no endless loop.
            closing = after_timestamp and not pair_complete
            logits[begin : last if closing else last + 1] = -np.inf


class DecodingTask:
    """Decodes windows with one set of options; its parts may be replaced before `run`."""

    inference: Inference
    sequence_ranker: SequenceRanker
    decoder: TokenDecoder
    logit_filters: list[LogitFilter]

    def __init__(self, model: "Whisper", options: DecodingOptions) -> None:
        self.model = model
        self.tokenizer: Tokenizer = get_tokenizer(
            model.is_multilingual,
            num_languages=model.num_languages,
            language=options.language or "en",
            task=options.task,
        )
        self.options: DecodingOptions = self._verify_options(options)

        self.n_group: int = options.beam_size or options.best_of or 1
        self.n_ctx: int = model.dims.n_text_ctx
        self.sample_len: int = options.sample_len or model.dims.n_text_ctx // 2

        self.sot_sequence: tuple[int, ...] = self.tokenizer.sot_sequence
        if self.options.without_timestamps:
            self.sot_sequence = self.tokenizer.sot_sequence_including_notimestamps
        self.initial_tokens: tuple[int, ...] = self._get_initial_tokens()
        self.sample_begin: int = len(self.initial_tokens)
        self.sot_index: int = self.initial_tokens.index(self.tokenizer.sot)

        self.inference = PyTorchInference(model, len(self.initial_tokens))
        self.sequence_ranker = MaximumLikelihoodRanker(options.length_penalty)
        self.decoder = self._make_decoder()
        self.logit_filters = self._make_logit_filters()

    def _make_decoder(self) -> TokenDecoder:
        options, eot = self.options, self.tokenizer.eot
        if options.beam_size is not None:
            return BeamSearchDecoder(options.beam_size, eot, self.inference, options.patience)
        return GreedyDecoder(options.temperature, eot)

    def _make_logit_filters(self) -> list[LogitFilter]:
        options = self.options
        filters: list[LogitFilter] = []
        if options.suppress_blank:
            filters.append(SuppressBlank(self.tokenizer, self.sample_begin))
        if options.suppress_tokens:
            filters.append(SuppressTokens(self._get_suppress_tokens()))
        if not options.without_timestamps:
            latest = None
            if options.max_initial_timestamp:
                latest = round(options.max_initial_timestamp / (CHUNK_LENGTH / self.model.dims.n_audio_ctx))
            filters.append(ApplyTimestampRules(self.tokenizer, self.sample_begin, latest))
        return filters

    def _verify_options(self, options: DecodingOptions) -> DecodingOptions:
        if options.beam_size is not None and options.best_of is not None:
            raise ValueError("beam_size and best_of can't be given together")
        if options.temperature == 0 and options.best_of is not None:
            raise ValueError("best_of with greedy sampling (T=0) is not compatible")
        if options.beam_size is None and not 0 <= options.temperature < math.inf:
            raise ValueError(f"temperature is {options.temperature}, expected 0 or a finite positive number")
        if options.patience is not None and options.beam_size is None:
            raise ValueError("patience requires beam_size to be given")
        if options.length_penalty is not None and not 0 <= options.length_penalty <= 1:
            raise ValueError("length_penalty (alpha) should be a value between 0 and 1")
        if options.sample_len is not None and options.sample_len < 0:
            raise ValueError(f"sample_len is {options.sample_len}, expected a positive number of tokens")
        return options

    def _get_initial_tokens(self) -> tuple[int, ...]:
        prompt = self._encode(self.options.prompt)
        if prompt:
            prompt = [self.tokenizer.sot_prev, *prompt[-(self.n_ctx // 2 - 1) :]]

        # At the default sample_len the limit is 0 and [-0:] keeps everything, as in the reference.
        limit = self.n_ctx // 2 - self.sample_len
        prefix = self._encode(self.options.prefix)[-limit:]
        room = self.n_ctx - len(prompt) - len(self.sot_sequence)
        if len(prefix) > room:
            prefix = prefix[len(prefix) - room :]
        return (*prompt, *self.sot_sequence, *prefix)

    def _encode(self, text: str | list[int] | None) -> list[int]:
        if isinstance(text, str):
            return self.tokenizer.encode(" " + text.strip()) if text else []
        return list(text) if text else []

    def _get_suppress_tokens(self) -> tuple[int, ...]:
        given: Any = self.options.suppress_tokens
        if isinstance(given, str):
            given = [int(token) for token in given.split(",")]

        if given is None or len(given) == 0:
            suppressed = set()
        elif -1 in given:
            suppressed = {token for token in given if token >= 0} | set(self.tokenizer.non_speech_tokens)
        else:
            assert isinstance(given, list), "suppress_tokens must be a list"
            suppressed = set(given)

        tokenizer = self.tokenizer
        suppressed |= {tokenizer.transcribe, tokenizer.translate}
        suppressed |= {tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm}
        if tokenizer.no_speech is not None:
            suppressed.add(tokenizer.no_speech)  # its probability is taken before the filters
        return tuple(sorted(suppressed))

    def _get_audio_features(self, mel: Tensor) -> Tensor:
        dtype = _compute_type.dtype_of_activations(self.model, self.options.fp16)
        if self.options.fp16 or dtype != torch.float32:
            mel = mel.to(dtype)

        dims = self.model.dims
        encoded = mel.shape[-2:] == (dims.n_audio_ctx, dims.n_audio_state)
        features = mel if encoded else cast(Tensor, self.model.encoder(mel))
        if features.dtype != dtype:
            raise TypeError(f"audio_features has an incorrect dtype: {features.dtype}")
        return features

    def _detect_language(
        self, audio_features: Tensor, tokens: Tensor
    ) -> tuple[list[str], list[dict[str, float]] | None]:
        """Gives a language per window and writes its token into `tokens`, unless the options name one."""
        if self.options.language is not None and self.options.task != "lang_id":
            return [self.options.language] * audio_features.shape[0], None

        lang_tokens, found = self.model.detect_language(audio_features, self.tokenizer)
        lang_probs = cast(list[dict[str, float]], found)
        if self.options.language is None:
            tokens[:, self.sot_index + 1] = lang_tokens
        return [max(probs, key=probs.__getitem__) for probs in lang_probs], lang_probs

    def _main_loop(self, audio_features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, list[float]]:
        sum_logprobs = torch.zeros(tokens.shape[0], device=audio_features.device)
        no_speech_probs = [np.nan] * tokens.shape[0]
        try:
            for step in range(self.sample_len):
                logits = self.inference.logits(tokens, audio_features)
                if step == 0 and self.tokenizer.no_speech is not None:
                    at_sot = logits[:, self.sot_index].float().softmax(dim=-1)
                    no_speech_probs = at_sot[:, self.tokenizer.no_speech].tolist()
                logits = logits[:, -1]
                for logit_filter in self.logit_filters:
                    logit_filter.apply(logits, tokens)
                tokens, complete = self.decoder.update(tokens, logits, sum_logprobs)
                if complete or tokens.shape[-1] > self.n_ctx:
                    break
        finally:
            self.inference.cleanup_caching()
        return tokens, sum_logprobs, no_speech_probs

    @torch.no_grad()
    def run(self, mel: Tensor) -> list[DecodingResult]:
        """Decodes a batch of windows.

        Args:
            mel: [n_audio, n_mels, 2 * n_audio_ctx], or features [n_audio, n_audio_ctx, n_audio_state].

        Returns:
            One result per window.

        Raises:
            TypeError: the features' dtype is not what `options.fp16` asks for.
            ValueError: the model's weights or its features are not finite.
        """
        if mel.shape[0] == 0:
            return []
        dtype = _compute_type.dtype_of_activations(self.model, self.options.fp16)
        if self.options.fp16 and dtype == torch.float32 and self.model.device.type == "cpu":
            warnings.warn("FP16 is not supported on CPU; using FP32 instead", stacklevel=4)
        with _engine.session(self.model, dtype, _why_not_stock(self)) as engine:
            self.decoder.reset()
            features = self._get_audio_features(mel)
            tokens = torch.tensor([self.initial_tokens]).repeat(mel.shape[0], 1)
            languages, language_probs = self._detect_language(features, tokens)
            if self.options.task == "lang_id":
                assert language_probs is not None
                return [
                    DecodingResult(audio_features=f, language=language, language_probs=probs)
                    for f, language, probs in zip(features, languages, language_probs, strict=True)
                ]
            try:
                if engine is not None:
                    found = self._search_in_engine(engine, features, tokens)
                else:
                    found = self._search(features, tokens)
            except (RuntimeError, ValueError) as error:
                if self.options.temperature > 0:  # nothing can be drawn from probabilities that are NaN
                    _finite.check(self.model, features, error)
                raise
        return self._results(features, languages, *found)

    def _search_in_engine(
        self, engine: "_C.Whisper", features: Tensor, tokens: Tensor
    ) -> tuple[list[list[int]], list[float], list[float]]:
        options = _engine_options(self)
        memory = _engine.memory_of(engine, features)
        results = _C.decode(engine, memory, tokens.tolist(), options, _C.Control())
        return (
            [result.tokens for result in results],
            [result.sum_logprob for result in results],
            [result.no_speech_prob for result in results],
        )

    def _search(self, features: Tensor, tokens: Tensor) -> tuple[list[list[int]], list[float], list[float]]:
        n_audio = features.shape[0]
        tokens = tokens.repeat_interleave(self.n_group, dim=0).to(features.device)
        if n_audio > 1:  # one window is broadcast
            features = features.repeat_interleave(self.n_group, dim=0)

        tokens, sum_logprobs, no_speech_probs = self._main_loop(features, tokens)
        tokens = tokens.reshape(n_audio, self.n_group, -1)
        candidates, logprobs = self.decoder.finalize(tokens, sum_logprobs.reshape(n_audio, self.n_group))
        sampled = [[self._until_end(sequence) for sequence in group] for group in candidates]

        best = self.sequence_ranker.rank(sampled, logprobs)
        return (
            # A ranker that chooses too few is found out in `_results`.
            [group[i].tolist() for i, group in zip(best, sampled, strict=False)],
            [group[i] for i, group in zip(best, logprobs, strict=False)],
            no_speech_probs[:: self.n_group],
        )

    def _until_end(self, sequence: Tensor) -> Tensor:
        end = int((sequence == self.tokenizer.eot).nonzero()[0, 0])
        return sequence[self.sample_begin : end]

    def _results(
        self,
        features: Tensor,
        languages: list[str],
        tokens: list[list[int]],
        sum_logprobs: list[float],
        no_speech_probs: list[float],
    ) -> list[DecodingResult]:
        if any(map(np.isnan, sum_logprobs)):
            _finite.check(self.model, features)
        texts = [self.tokenizer.decode(sequence).strip() for sequence in tokens]
        fields = (features, languages, tokens, texts, sum_logprobs, no_speech_probs)
        lengths = [len(field) for field in fields]
        if len(set(lengths)) != 1:
            raise RuntimeError(f"inconsistent result lengths: {lengths}")
        return [
            DecodingResult(
                audio_features=feature,
                language=language,
                tokens=sequence,
                text=text,
                avg_logprob=logprob / (len(sequence) + 1),
                no_speech_prob=no_speech_prob,
                temperature=self.options.temperature,
                compression_ratio=compression_ratio(text),
            )
            for feature, language, sequence, text, logprob, no_speech_prob in zip(*fields, strict=True)
        ]


# The attributes that stock parts have; anything more was put there by somebody.
_STOCK_PARTS: dict[type, frozenset[str]] = {
    PyTorchInference: frozenset({"model", "initial_token_length", "kv_cache", "hooks", "kv_modules"}),
    MaximumLikelihoodRanker: frozenset({"length_penalty"}),
    GreedyDecoder: frozenset({"temperature", "eot"}),
    BeamSearchDecoder: frozenset(
        {"beam_size", "eot", "inference", "patience", "max_candidates", "finished_sequences"}
    ),
    SuppressBlank: frozenset({"tokenizer", "sample_begin"}),
    SuppressTokens: frozenset({"suppress_tokens"}),
    ApplyTimestampRules: frozenset({"tokenizer", "sample_begin", "max_initial_timestamp_index"}),
}
# Programs put other classes under the names of this module.
_TASK, _INFERENCE, _RANKER = DecodingTask, PyTorchInference, MaximumLikelihoodRanker
_GREEDY, _BEAM = GreedyDecoder, BeamSearchDecoder
_FILTER_ORDER = _BLANK, _TOKENS, _RULES = SuppressBlank, SuppressTokens, ApplyTimestampRules


def _why_not_stock(task: DecodingTask) -> str | None:
    """Why `task` differs from one that `DecodingTask.__init__` makes, in a way the engine does not know."""
    if type(task) is not _TASK or _engine.patched(_SEALED):
        return "DecodingTask is subclassed or one of its classes is patched"
    overridden = vars(task).keys() & vars(_TASK).keys()
    if overridden:
        return f"the decoding task has its own {', '.join(sorted(overridden))}"
    for part, stock in (
        (task.inference, (_INFERENCE,)),
        (task.sequence_ranker, (_RANKER,)),
        (task.decoder, (_GREEDY, _BEAM)),
        *((f, _FILTER_ORDER) for f in task.logit_filters),
    ):
        if type(part) not in stock or vars(part).keys() != _STOCK_PARTS[type(part)]:
            return f"{type(part).__name__} is not a stock part of a decoding task"
    if not _parts_agree(task):
        return "the parts of the decoding task were changed after it was made"
    return None


def _parts_agree(task: DecodingTask) -> bool:
    inference, decoder = cast(PyTorchInference, task.inference), task.decoder
    positions = [_FILTER_ORDER.index(type(f)) for f in task.logit_filters]
    filters = [vars(f) for f in task.logit_filters]
    beam = type(decoder) is _BEAM
    return (
        type(task.tokenizer) is Tokenizer
        and inference.model is task.model
        and not inference.kv_cache
        and not inference.hooks
        and inference.initial_token_length == task.sample_begin == len(task.initial_tokens)
        and positions == sorted(set(positions))
        and all(f.get("tokenizer", task.tokenizer) is task.tokenizer for f in filters)
        and all(f.get("sample_begin", task.sample_begin) == task.sample_begin for f in filters)
        and vars(decoder)["eot"] == task.tokenizer.eot
        and (not beam or _beam_agrees(task, cast(BeamSearchDecoder, decoder)))
    )


def _beam_agrees(task: DecodingTask, decoder: BeamSearchDecoder) -> bool:
    return (
        decoder.inference is task.inference
        and decoder.beam_size == task.n_group
        and decoder.max_candidates == round(decoder.beam_size * decoder.patience)
    )


def _engine_options(task: DecodingTask) -> "_C.DecodingOptions":
    """The numbers behind a stock task."""
    decoder = vars(task.decoder)
    filters = {type(f): vars(f) for f in task.logit_filters}
    vocabulary = range(task.model.dims.n_vocab)  # indexing it is as strict as indexing the logits
    suppressed = filters.get(_TOKENS, {}).get("suppress_tokens", [])
    blank = [*task.tokenizer.encode(" "), task.tokenizer.eot] if _BLANK in filters else []
    rules = filters.get(_RULES)
    latest = rules["max_initial_timestamp_index"] if rules else None
    return _C.DecodingOptions(
        n_group=task.n_group,
        sample_len=task.sample_len,
        n_ctx=task.n_ctx,
        sot_index=task.sot_index,
        sample_begin=task.sample_begin,
        eot=task.tokenizer.eot,
        no_speech=-1 if task.tokenizer.no_speech is None else task.tokenizer.no_speech,
        temperature=float(decoder.get("temperature", 0.0)),
        beam_size=decoder.get("beam_size", 0),
        patience=float(decoder.get("patience", 1.0)),
        length_penalty=cast(MaximumLikelihoodRanker, task.sequence_ranker).length_penalty,
        suppress_tokens=[vocabulary[token] for token in suppressed],
        suppress_blank=blank,
        timestamp_begin=task.tokenizer.timestamp_begin if rules else -1,
        no_timestamps=task.tokenizer.no_timestamps,
        max_initial_timestamp_index=-1 if latest is None else latest,
    )


@torch.no_grad()
def decode(
    model: "Whisper",
    mel: Tensor,
    options: DecodingOptions = DecodingOptions(),
    **kwargs: Any,
) -> DecodingResult | list[DecodingResult]:
    """Decodes one 30-second window or a batch of them.

    Args:
        model: the model.
        mel: log-mel [n_mels, 2 * n_audio_ctx] or [batch, n_mels, 2 * n_audio_ctx], or audio features
            [(batch,) n_audio_ctx, n_audio_state].
        options: how to decode; `kwargs` replace single options.

    Returns:
        One result, or a list for a batch.

    Raises:
        ValueError: options that do not go together. TypeError: an unknown option, or features of a dtype that
            `fp16` does not ask for.
    """
    single = mel.ndim == 2
    if kwargs:
        options = replace(options, **kwargs)
    result = DecodingTask(model, options).run(mel.unsqueeze(0) if single else mel)
    return result[0] if single else result


@torch.no_grad()
def decode_together(tasks: list[DecodingTask], features: Tensor) -> list[DecodingResult]:
    """Decodes each window by a task of its own, as one batch in the engine.

    Args:
        tasks: differ in their language and the tokens of their prompts only, which are equally many.
        features: [task, n_audio_ctx, n_audio_state].

    Returns:
        What each task would have found alone.
    """
    first = tasks[0]
    with _engine.session(first.model, features.dtype, _why_not_stock(first)) as engine:
        if engine is None:
            return [task.run(window[None])[0] for task, window in zip(tasks, features, strict=True)]
        tokens = torch.tensor([task.initial_tokens for task in tasks])
        found = first._search_in_engine(engine, features, tokens)
    return first._results(features, [cast(str, task.options.language) for task in tasks], *found)


_PARTS = (Inference, SequenceRanker, TokenDecoder, LogitFilter, *_STOCK_PARTS)
_SEALED = _engine.seal(
    (DecodingTask, *_PARTS),
    {name for cls in (DecodingTask, *_PARTS) for name, member in vars(cls).items() if callable(member)}
    - {"__init__", "_why_not_stock"},
)
