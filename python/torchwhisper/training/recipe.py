"""The optimizer, its rates, and what is right for a model of a given size."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import _C
from ..model import ModelDimensions

# A fortieth of the greatest rate in pre-training, by the width of the model.
_RATES = {384: 3.75e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.375e-6}
_LORA_RATE = 1e-3
_MOST_WARMUP = 500


def default_rate(dims: ModelDimensions, lora: bool = False) -> float:
    """The learning rate that suits a model of this size; adapters take a much higher one."""
    if lora:
        return _LORA_RATE
    widths = [width for width in _RATES if width <= dims.n_audio_state]
    return _RATES[max(widths, default=min(_RATES))]


def default_warmup(steps: int) -> int:
    """A tenth of the steps, at most 500."""
    return min(_MOST_WARMUP, steps // 10)


def fastest_precision(device: torch.device) -> str:
    """ "bf16" where the device multiplies bfloat16 faster than float32, else "fp32"."""
    if device.type == "cuda":
        faster = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        faster = _C.compute_type_obstacle("bfloat16") is None
    return "bf16" if faster else "fp32"


@dataclass(frozen=True)
class Schedule:
    """The rate rises over `warmup` steps and then falls to 0, in a line with the progress of the run."""

    rate: float
    warmup: int

    def at(self, step: int, progress: float) -> float:
        """step: counted from 0. progress: the done share of the run, 0 to 1."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        return self.rate * min(rising, max(0.0, 1.0 - progress))


def make_optimizer(
    module: nn.Module, rate: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW on what is to be trained, with weight decay on the matrices only."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim > 1 and not name.endswith("positional_embedding")]
    others = [p for name, p in named if p.ndim <= 1 or name.endswith("positional_embedding")]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    plain = all(type(p) is nn.Parameter for _, p in named)
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=eps, fused=plain)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(module: nn.Module, largest: float) -> Tensor:
    """Scales the gradients down to a norm of `largest` (0: never); returns the norm before."""
    trained = [p for p in module.parameters() if p.requires_grad]
    norm = nn.utils.clip_grad_norm_(trained, largest or float("inf"))
    full = getattr(norm, "full_tensor", None)
    return norm if full is None else full()
