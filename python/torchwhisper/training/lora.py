"""Adapters of low rank (PEFT) in a model: little to train and to store, and merged in the end."""

from typing import Any, cast

from torch import nn

from ..model import Whisper

_TARGETS = ["query", "value"]


def add_lora(model: Whisper, rank: int, alpha: int | None = None, dropout: float = 0.0) -> None:
    """Puts adapters on the query and value projections and freezes everything else.

    Args:
        alpha: the adapters are scaled by alpha / rank; 2 * rank where it is None.

    Raises:
        RuntimeError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RuntimeError("LoRA needs PEFT: pip install peft") from None
    config = LoraConfig(
        r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=list(_TARGETS), bias="none"
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def has_lora(model: nn.Module) -> bool:
    return any(hasattr(module, "lora_A") for module in model.modules())


def merge_lora(model: Whisper) -> Whisper:
    """The model with its adapters merged into the weights and taken out, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "lora_A"):
                adapter = cast(Any, child)
                adapter.merge()
                setattr(parent, name, adapter.get_base_layer())
    return model
