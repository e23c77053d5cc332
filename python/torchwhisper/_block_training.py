"""How the blocks of an encoder or a decoder run while gradients are recorded: activation checkpointing and
stochastic depth.

The C++ engine has its own functions for it (csrc/nn/checkpoint.h); this is the same on the Python path, by
`torch.utils.checkpoint`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

if TYPE_CHECKING:
    from .model import ResidualAttentionBlock

# Each keeps less for the backward pass than the one before it.
POLICIES = ("selective", "mlp", "block")


class BlockTraining(NamedTuple):
    """What was asked for.

    policy: one of POLICIES, or None to keep everything.
    every: the policy holds for each `every`-th block, from the first on.
    stochastic_depth: probability that a block is skipped for a row of the batch, in training mode.
    """

    policy: str | None = None
    every: int = 1
    stochastic_depth: float = 0.0

    def checked(self) -> BlockTraining:
        if self.policy is not None and self.policy not in POLICIES:
            raise ValueError(
                f"the checkpointing policy is {self.policy!r}, expected None or one of {', '.join(POLICIES)}"
            )
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every is {self.every!r}, expected a whole number, at least 1")
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"stochastic_depth is {self.stochastic_depth}, expected a probability below 1")
        return self

    def now(self, module: nn.Module) -> BlockTraining:
        """What of it holds for a call of `module` at this moment."""
        if not torch.is_grad_enabled():
            return BlockTraining()
        return self if module.training else self._replace(stochastic_depth=0.0)


def run(
    block: ResidualAttentionBlock,
    index: int,
    training: BlockTraining,
    x: Tensor,
    xa: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The block at `index` of its list, as `training` says."""

    def forward(x: Tensor, xa: Tensor | None) -> Tensor:
        if not training.stochastic_depth:
            return cast(Tensor, block(x, xa, mask=mask))
        kept = 1 - training.stochastic_depth
        depth = x.new_empty(x.shape[0], 1, 1).bernoulli_(kept).div_(kept)
        return cast(Tensor, x + depth * (block(x, xa, mask=mask) - x))

    if training.policy is None or index % training.every:
        return forward(x, xa)
    options: dict[str, Any] = {"preserve_rng_state": training.stochastic_depth > 0}
    if training.policy != "block":
        options["context_fn"] = functools.partial(
            create_selective_checkpoint_contexts, _keeps(x.shape[-1], training.policy)
        )
    return cast(Tensor, checkpoint(forward, x, xa, use_reentrant=False, **options))


_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten.bmm.default,
}


def _keeps(n_state: int, policy: str) -> Callable[..., CheckpointPolicy]:
    """Keeps the outputs of attention and of the products, apart from the last of the block, which nothing
    needs, and with "mlp" the first of the feed-forward half."""

    def decide(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if op in _ATTENTION:
            return CheckpointPolicy.MUST_SAVE
        if op in _PRODUCTS:
            n_in, n_out = args[-1].shape
            if n_in <= n_state and (n_out == n_state or (n_out > n_state and policy == "selective")):
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return decide
