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
    if hidden.is_cuda:  # to pick those that count, the host would have to wait for their number
        rows, counted = hidden.flatten(0, -2), counted.flatten()
        targets = targets.flatten().clamp(min=0)
    else:
        rows, targets, counted = hidden[counted], targets[counted], counted[counted]
    with torch.autocast(hidden.device.type, enabled=False):
        apply = cast(Callable[..., Tensor], _ChunkedCrossEntropy.apply)
        return apply(rows, weight, targets, (counted / normalizer).float().unsqueeze(1))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """rows [n, n_state], weight [n_vocab, n_state], targets [n], shares [n, 1] -> the sum of the losses, each
    multiplied by its share."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        head = _padded(weight, rows.dtype) if rows.is_cuda else weight.to(rows.dtype)
        total = rows.new_zeros((), dtype=torch.float32)
        of_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(head, dtype=weight.dtype) if ctx.needs_input_grad[1] else None
        n_piece = max(16, _PIECE_BYTES.get(rows.device.type, 64 << 20) // (4 * len(head)))
        buffer = rows.new_empty(min(n_piece, len(rows)), len(head))
        for start in range(0, len(rows), n_piece):
            piece = slice(start, start + n_piece)
            logits = torch.mm(rows[piece], head.t(), out=buffer[: len(rows) - start])
            logits[:, len(weight) :] = -torch.inf
            losses, of_logits = _softmax_cross_entropy(logits, targets[piece].unsqueeze(1))
            total += (losses * shares[piece]).sum()
            if of_rows is not None:
                torch.mm(of_logits, head, out=of_rows[piece]).mul_(shares[piece])
            if of_weight is not None:
                _add_product(of_weight, of_logits.t(), rows[piece] * shares[piece].to(rows.dtype))
        ctx.save_for_backward(of_rows, None if of_weight is None else of_weight[: len(weight)])
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("chunked_cross_entropy gives first-order gradients only: no create_graph=True")
        of_rows, of_weight = ctx.saved_tensors
        return _scaled(of_rows, grad), _scaled(of_weight, grad), None, None


def _padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """With zero rows up to a multiple of 64: products of an odd number of columns take slow kernels."""
    n_vocab, n_state = weight.shape
    padded = weight.new_zeros(-(-n_vocab // 64) * 64, n_state, dtype=dtype)
    padded[:n_vocab] = weight
    return padded


def _softmax_cross_entropy(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The losses [n, 1] in float32 and their gradient, which takes the place of the logits [n, n_vocab]."""
    if logits.dtype == torch.float32:
        # Without exp() of the whole piece, which is slow on CPUs where its results are denormal.
        of_target, largest = logits.gather(1, index), logits.amax(1, keepdim=True)
        of_logits = torch.softmax(logits, 1, out=logits)
        losses = largest - of_logits.amax(1, keepdim=True).log() - of_target
    else:
        log_probabilities = torch.log_softmax(logits, 1, dtype=torch.float32)
        losses = -log_probabilities.gather(1, index)
        of_logits = torch.exp(log_probabilities, out=logits)
    of_logits.scatter_(1, index, torch.expm1(-losses).to(logits.dtype))
    return losses, of_logits


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


def _scaled(gradient: Tensor | None, scale: Tensor) -> Tensor | None:
    if gradient is None or (scale.device.type == "cpu" and scale == 1):
        return gradient
    return gradient * scale.to(gradient.dtype)
