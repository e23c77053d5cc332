"""Whisper as plain `torch.nn.Module` classes, with openai-whisper's names (`whisper/model.py`).

Python owns the parameters and every class has a complete PyTorch `forward`. On a plain tree the encoder and
the decoder hand the very same tensors to the C++ engine instead; `_engine` decides and
`torchwhisper.explain` tells.
"""

import base64
import gzip
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Dict, Iterable, Optional, Tuple, cast  # noqa: F401, UP035

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.hooks import RemovableHandle

from . import _engine
from ._block_training import BlockTraining
from ._block_training import run as _run_block
from .decoding import decode as decode_function
from .decoding import detect_language as detect_language_function
from .transcribe import transcribe as transcribe_function

SDPA_AVAILABLE = True

KvCache = dict[nn.Module, Tensor]


@dataclass
class ModelDimensions:
    """The sizes that define a model; the `dims` of a checkpoint."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int


class _Adopted(nn.Module):
    """A module whose parameters the engine may hold: it gives them up where torch may exchange them."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Adopted":
        _engine.release()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    # What load_state_dict() of any module around this one calls.
    def _load_from_state_dict(self, *args: Any) -> None:
        _engine.release()
        super()._load_from_state_dict(*args)


class LayerNorm(_Adopted, nn.LayerNorm):
    """Computes in float32 and returns the dtype of `x`, also when the parameters are half."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        normed: Tensor = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
        return normed.to(x.dtype)


class Linear(_Adopted, nn.Linear):
    """Casts its parameters to the dtype of `x` at every call."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Conv1d(_Adopted, nn.Conv1d):
    """Casts its parameters to the dtype of `x` at every call."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(x.dtype)
        return cast(Tensor, super()._conv_forward(x, weight.to(x.dtype), bias))


def sinusoids(length: int, channels: int, max_timescale: float = 10000) -> Tensor:
    """Sinusoidal positions: sines in the first half of the channels, cosines in the second.

    Returns:
        [length, channels], float32.
    """
    assert channels % 2 == 0
    half = channels // 2
    step = math.log(max_timescale) / (half - 1)
    rates = torch.exp(-step * torch.arange(half))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@contextmanager
def disable_sdpa() -> Iterator[None]:
    """Within it, attention of every model is computed step by step and returns its scores."""
    before = MultiHeadAttention.use_sdpa
    MultiHeadAttention.use_sdpa = False
    try:
        yield
    finally:
        MultiHeadAttention.use_sdpa = before


class MultiHeadAttention(_Adopted):
    """Attention of `n_head` heads over [batch, time, n_state], to itself or to audio features.

    `use_sdpa` holds for all models: False computes step by step and returns the scores, see `disable_sdpa`.
    """

    use_sdpa = True

    def __init__(self, n_state: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.query = Linear(n_state, n_state)
        self.key = Linear(n_state, n_state, bias=False)
        self.value = Linear(n_state, n_state)
        self.out = Linear(n_state, n_state)

    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        kv_cache: KvCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends from `x` to itself, or to `xa` where it is given.

        Args:
            x: [batch, n_ctx, n_state].
            xa: [batch, n_audio_ctx, n_state], the audio features.
            mask: [>= n_ctx, >= n_ctx], added to the scores; with SDPA only its presence counts (causal).
            kv_cache: keys and values by projection module, kept up to date by `install_kv_cache_hooks`.

        Returns:
            The output like `x`, and the scores [batch, n_head, n_ctx, n_keys] before the softmax, float32 and
            detached, or None where SDPA was used.
        """
        q = self.query(x)
        if xa is not None and kv_cache is not None and self.key in kv_cache:
            k, v = kv_cache[self.key], kv_cache[self.value]
        else:
            # Hooks, where installed, replace these outputs by the whole cached sequence.
            source = x if xa is None else xa
            k, v = self.key(source), self.value(source)
        attended, qk = self.qkv_attention(q, k, v, mask)
        return self.out(attended), qk

    def qkv_attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` between the projections: q, k and v are [batch, time, n_state]."""
        n_ctx, n_state = q.shape[1:]
        q, k, v = (self._split_heads(t) for t in (q, k, v))  # [batch, n_head, time, n_state // n_head]

        if SDPA_AVAILABLE and MultiHeadAttention.use_sdpa:
            causal = mask is not None and n_ctx > 1
            return self._merge_heads(scaled_dot_product_attention(q, k, v, is_causal=causal)), None

        scale = (n_state // self.n_head) ** -0.25
        qk = (q * scale) @ (k * scale).transpose(-1, -2)
        if mask is not None:
            qk = qk + mask[:n_ctx, :n_ctx]
        qk = qk.float()
        weights = F.softmax(qk, dim=-1).to(q.dtype)
        return self._merge_heads(weights @ v), qk.detach()

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_head, -1).permute(0, 2, 1, 3)

    def _merge_heads(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 1, 3).flatten(start_dim=2)


class ResidualAttentionBlock(_Adopted):
    """A layer: attention, in the decoder cross-attention, and an MLP, each added to what it was given."""

    def __init__(self, n_state: int, n_head: int, cross_attention: bool = False) -> None:
        super().__init__()
        self.attn = MultiHeadAttention(n_state, n_head)
        self.attn_ln = LayerNorm(n_state)
        self.cross_attn = MultiHeadAttention(n_state, n_head) if cross_attention else None
        self.cross_attn_ln = LayerNorm(n_state) if cross_attention else None
        n_mlp = n_state * 4
        self.mlp = nn.Sequential(Linear(n_state, n_mlp), nn.GELU(), Linear(n_mlp, n_state))
        self.mlp_ln = LayerNorm(n_state)

    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        kv_cache: KvCache | None = None,
    ) -> Tensor:
        """Computes [batch, n_ctx, n_state] from as much; the arguments are those of `MultiHeadAttention`."""
        x = x + self.attn(self.attn_ln(x), mask=mask, kv_cache=kv_cache)[0]
        if self.cross_attn is not None:
            assert self.cross_attn_ln is not None
            x = x + self.cross_attn(self.cross_attn_ln(x), xa, kv_cache=kv_cache)[0]
        return cast(Tensor, x + self.mlp(self.mlp_ln(x)))


class AudioEncoder(_Adopted):
    """Log-mel windows to audio features. `n_ctx` frames of 20 ms come out of twice as many that go in."""

    positional_embedding: Tensor
    block_training = BlockTraining()

    def __init__(self, n_mels: int, n_ctx: int, n_state: int, n_head: int, n_layer: int) -> None:
        super().__init__()
        self.conv1 = Conv1d(n_mels, n_state, kernel_size=3, padding=1)
        self.conv2 = Conv1d(n_state, n_state, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(n_ctx, n_state))
        self.blocks = nn.ModuleList(ResidualAttentionBlock(n_state, n_head) for _ in range(n_layer))
        self.ln_post = LayerNorm(n_state)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes log-mel windows.

        Args:
            x: [batch, n_mels, 2 * n_audio_ctx].

        Returns:
            [batch, n_audio_ctx, n_audio_state] in the dtype of `x`.

        Raises:
            AssertionError: another number of frames.
        """
        if (forward := _engine.encoder_for(self, x)) is not None:
            assert (x.shape[-1] + 1) // 2 == self.positional_embedding.shape[0], "incorrect audio shape"
            return forward(x)

        x = F.gelu(self.conv1(x))
        x = F.gelu(self.conv2(x))
        x = x.permute(0, 2, 1)
        assert x.shape[1:] == self.positional_embedding.shape, "incorrect audio shape"
        x = (x + self.positional_embedding).to(x.dtype)
        training = self.block_training.now(self)
        for i, block in enumerate(self.blocks):
            x = _run_block(cast(ResidualAttentionBlock, block), i, training, x)
        return cast(Tensor, self.ln_post(x))


class TextDecoder(_Adopted):
    """Tokens and audio features to logits. The output layer is the token embedding again."""

    mask: Tensor
    block_training = BlockTraining()

    def __init__(self, n_vocab: int, n_ctx: int, n_state: int, n_head: int, n_layer: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(n_vocab, n_state)
        self.positional_embedding = nn.Parameter(torch.zeros(n_ctx, n_state))
        self.blocks = nn.ModuleList(
            ResidualAttentionBlock(n_state, n_head, cross_attention=True) for _ in range(n_layer)
        )
        self.ln = LayerNorm(n_state)
        self.register_buffer("mask", torch.full((n_ctx, n_ctx), -torch.inf).triu_(1), persistent=False)

    def forward(self, x: Tensor, xa: Tensor, kv_cache: KvCache | None = None) -> Tensor:
        """Predicts the next token at every position.

        Args:
            x: [batch, <= n_text_ctx], token ids; with a filled `kv_cache` only the new ones.
            xa: [batch, n_audio_ctx, n_audio_state], the audio features.
            kv_cache: see `Whisper.install_kv_cache_hooks`.

        Returns:
            Logits [batch, tokens, n_vocab], float32.
        """
        if (forward := _engine.decoder_for(self, x, xa, kv_cache)) is not None:
            return forward(x, xa)
        x = self._hidden(x, xa, kv_cache)
        return (x @ self.token_embedding.weight.to(x.dtype).transpose(0, 1)).float()

    def hidden(self, x: Tensor, xa: Tensor) -> Tensor:
        """What `forward` multiplies by the token embedding: [batch, tokens, n_state] in the dtype of `xa`."""
        forward = _engine.decoder_for(self, x, xa, None, hidden=True)
        return self._hidden(x, xa, None) if forward is None else forward(x, xa)

    def _hidden(self, x: Tensor, xa: Tensor, kv_cache: KvCache | None) -> Tensor:
        offset = next(iter(kv_cache.values())).shape[1] if kv_cache else 0
        x = self.token_embedding(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # the sum of half parameters is not rounded
        x = (x + self.positional_embedding[offset : offset + x.shape[-2]]).to(xa.dtype)
        training = self.block_training.now(self)
        for i, block in enumerate(self.blocks):
            if kv_cache is None:
                x = _run_block(cast(ResidualAttentionBlock, block), i, training, x, xa, self.mask)
            else:
                x = block(x, xa, mask=self.mask, kv_cache=kv_cache)
        return cast(Tensor, self.ln(x))


class Whisper(_Adopted):
    """A whole model. `dims` gives its sizes; parameters start untrained (see `load_model`)."""

    compute_type = "default"  # what `load_model` was asked for

    def __init__(self, dims: ModelDimensions) -> None:
        super().__init__()
        self.dims = dims
        self.encoder = AudioEncoder(
            dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer
        )
        self.decoder = TextDecoder(
            dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer
        )
        # Word times use every head of the upper half, unless `set_alignment_heads` says better.
        heads = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
        heads[dims.n_text_layer // 2 :] = True
        self.register_buffer("alignment_heads", heads, persistent=False)

    @property
    def alignment_heads(self) -> Tensor:
        """The cross-attention heads that word times are read from: sparse bool [n_text_layer, n_text_head].

        The buffer is dense, since neither DistributedDataParallel nor every device takes sparse ones.
        """
        heads = self._buffers.get("alignment_heads")
        if heads is None:
            raise AttributeError("this model has no alignment_heads")
        return heads if heads.is_sparse else heads.to_sparse()

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        if name == "alignment_heads" and tensor is not None:
            tensor = tensor.to_dense()  # programs give it sparse, as openai-whisper has it
        super().register_buffer(name, tensor, persistent)

    def set_alignment_heads(self, dump: bytes) -> None:
        """Chooses the cross-attention heads that word times are read from.

        Args:
            dump: base85 of gzip of one bool byte per (layer, head).
        """
        flags = np.frombuffer(gzip.decompress(base64.b85decode(dump)), dtype=bool).copy()
        heads = torch.from_numpy(flags).reshape(self.dims.n_text_layer, self.dims.n_text_head)
        self.register_buffer("alignment_heads", heads, persistent=False)

    def enable_checkpointing(self, policy: str | None = "block", every: int = 1) -> None:
        """Trades computing for memory in training: the backward pass computes some activations again.

        It acts where gradients are recorded and changes no result; inference does not notice it.

        Args:
            policy: what is computed again in every block. "selective": the outputs of LayerNorm and GELU;
                "mlp": also the first product of the feed-forward half; "block": all but the input of the
                block. None switches it off.
            every: leave out all but each `every`-th block.

        Raises:
            ValueError: another policy, or `every` below 1.
        """
        for half in (self.encoder, self.decoder):
            half.block_training = half.block_training._replace(policy=policy, every=every).checked()

    def set_stochastic_depth(self, probability: float) -> None:
        """In training mode every block is skipped for a row of the batch with this probability; 0 switches it
        off. What a block adds is scaled by 1 / (1 - probability) where it is not skipped.

        Raises:
            ValueError: not a probability below 1.
        """
        for half in (self.encoder, self.decoder):
            half.block_training = half.block_training._replace(stochastic_depth=probability).checked()

    def train(self, mode: bool = True) -> "Whisper":
        """Raises RuntimeError for a model that was loaded with a compute type for inference."""
        self._refuse_training(mode)
        super().train(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "Whisper":
        """Raises RuntimeError for a model that was loaded with a compute type for inference."""
        self._refuse_training(requires_grad)
        super().requires_grad_(requires_grad)
        return self

    def _refuse_training(self, wanted: bool) -> None:
        if wanted and self.compute_type != "default":
            raise RuntimeError(
                f"a model loaded with compute_type={self.compute_type!r} is for inference: "
                "to train it, load it with compute_type='default'"
            )

    def embed_audio(self, mel: Tensor) -> Tensor:
        """[batch, n_mels, 2 * n_audio_ctx] to audio features [batch, n_audio_ctx, n_audio_state]."""
        return cast(Tensor, self.encoder(mel))

    def logits(self, tokens: Tensor, audio_features: Tensor) -> Tensor:
        """Logits [batch, tokens, n_vocab] of `tokens` [batch, tokens] given the audio features."""
        return cast(Tensor, self.decoder(tokens, audio_features))

    def forward(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """Logits [batch, tokens, n_vocab] of `tokens` [batch, tokens] given a log-mel window."""
        return cast(Tensor, self.decoder(tokens, self.encoder(mel)))

    @property
    def device(self) -> torch.device:
        """Where the first parameter is."""
        return next(self.parameters()).device

    @property
    def is_multilingual(self) -> bool:
        """Whether the vocabulary has language tokens."""
        return self.dims.n_vocab >= 51865

    @property
    def num_languages(self) -> int:
        """How many the vocabulary has; 99 for English-only models too, as in the reference."""
        return self.dims.n_vocab - 51765 - int(self.is_multilingual)

    def install_kv_cache_hooks(self, cache: KvCache | None = None) -> tuple[KvCache, list[RemovableHandle]]:
        """Lets the decoder's key and value projections keep what they computed.

        Args:
            cache: what to start from; copied.

        Returns:
            The cache (projection module to [batch, time, n_text_state]), to be passed as `kv_cache`, and the
            hooks, which the caller removes.
        """
        cache = {} if cache is None else dict(cache)
        hooks: list[RemovableHandle] = []

        def extend(module: nn.Module, _: Any, output: Tensor) -> Tensor:
            # Cross-attention is longer than the text context and comes whole, as does the first step.
            if module in cache and output.shape[1] <= self.dims.n_text_ctx:
                cache[module] = torch.cat([cache[module], output], dim=1).detach()
            else:
                cache[module] = output
            return cache[module]

        def install(layer: nn.Module) -> None:
            if isinstance(layer, MultiHeadAttention):
                hooks.append(layer.key.register_forward_hook(extend))
                hooks.append(layer.value.register_forward_hook(extend))

        self.decoder.apply(install)
        return cache, hooks

    detect_language = detect_language_function
    transcribe = transcribe_function
    decode = decode_function


_STOCK = SimpleNamespace(
    Whisper=Whisper,
    AudioEncoder=AudioEncoder,
    TextDecoder=TextDecoder,
    ResidualAttentionBlock=ResidualAttentionBlock,
    MultiHeadAttention=MultiHeadAttention,
    LayerNorm=LayerNorm,
    Linear=Linear,
    Conv1d=Conv1d,
)
_SEALED = _engine.seal(
    (
        *(AudioEncoder, TextDecoder, ResidualAttentionBlock, MultiHeadAttention, LayerNorm, Linear, Conv1d),
        *(nn.Embedding, nn.GELU, nn.Sequential),
    ),
    (
        *("__call__", "_call_impl", "__getattr__", "forward", "_conv_forward"),
        *("qkv_attention", "_split_heads", "_merge_heads"),
    ),
)
