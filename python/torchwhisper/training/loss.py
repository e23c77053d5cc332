"""The cross-entropy of the next token over the tied head, in pieces: the logits of a whole batch, which are
larger than all activations of a checkpointed model, never exist."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

IGNORED = -100

# Of one piece of float32 logits. Large enough that the products run at full speed.
_PIECE_BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, normalizer: Tensor | float | None = None
) -> Tensor:
    """The cross-entropy of `targets` under the logits `hidden @ weight.T`.

    The gradients are computed along with the loss, one piece of the logits after the other, in the types
    that autocast and the reference's forward pass give: products in the type of `hidden`, softmax in float32.

    Args:
        hidden: [..., n_state], see `TextDecoder.hidden`.
        weight: [n_vocab, n_state], the token embedding.
        targets: [...] int64; positions of IGNORED (-100) do not count.
        normalizer: what the sum over the positions is divided by; their number where it is None.

    Returns:
        A float32 scalar, 0 where no position counts. Its gradients are of first order.
    """
    counted = targets != IGNORED
    if normalizer is None:
        normalizer = counted.sum().clamp(min=1)
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    with torch.autocast(hidden.device.type, enabled=False):
        apply = cast(Callable[..., Tensor], _ChunkedCrossEntropy.apply)
        return apply(hidden[counted], weight, targets[counted]) / normalizer


class _ChunkedCrossEntropy(torch.autograd.Function):
    """rows [n, n_state], weight [n_vocab, n_state], targets [n] -> the sum of the losses."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        head = weight.to(rows.dtype)
        total = rows.new_zeros((), dtype=torch.float32)
        of_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        n_piece = max(16, _PIECE_BYTES.get(rows.device.type, 64 << 20) // (4 * weight.shape[0]))
        for start in range(0, len(rows), n_piece):
            piece = slice(start, start + n_piece)
            logits = (rows[piece] @ head.t()).float()
            losses, of_logits = _softmax_cross_entropy(logits, targets[piece])
            total += losses
            of_logits = of_logits.to(rows.dtype)
            if of_rows is not None:
                torch.mm(of_logits, head, out=of_rows[piece])
            if of_weight is not None:
                if of_weight.dtype == rows.dtype:
                    of_weight.addmm_(of_logits.t(), rows[piece])
                else:
                    of_weight += of_logits.t() @ rows[piece]
        ctx.save_for_backward(of_rows, of_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("chunked_cross_entropy gives first-order gradients only: no create_graph=True")
        of_rows, of_weight = ctx.saved_tensors
        return (
            None if of_rows is None else of_rows * grad.to(of_rows.dtype),
            None if of_weight is None else of_weight * grad.to(of_weight.dtype),
            None,
        )


def _softmax_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the losses and its gradient, which takes the place of the logits."""
    index = targets.unsqueeze(1)
    of_target = logits.gather(1, index)
    norm = logits.logsumexp(1, keepdim=True)
    total = (norm - of_target).sum()
    probabilities = logits.sub_(norm).exp_()
    probabilities.scatter_add_(1, index, torch.full_like(of_target, -1))
    return total, probabilities
