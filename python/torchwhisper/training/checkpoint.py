"""The state of a run on disk: each file is whole or absent, whatever happens while it is written."""

import os
import re
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from .._save import write_torch
from .distributed import Ranks, whole

_NAME = re.compile(r"step-(\d+)\.pt")


def path_of(folder: str, step: int) -> str:
    return os.path.join(folder, f"step-{step:08d}.pt")


def latest(folder: str) -> str | None:
    """The newest checkpoint of a run; what a crash left half written does not have its name."""
    found = _complete(folder)
    return os.path.join(folder, found[-1]) if found else None


def _complete(folder: str) -> list[str]:
    return (
        sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name)) if os.path.isdir(folder) else []
    )


def save(
    folder: str,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    extra: dict[str, Any],
    keep: int = 2,
) -> None:
    """Writes the trained parameters, the optimizer and `extra`, and removes all but the `keep` newest.

    Every rank has to call this; the first one writes.
    """
    content = {
        "step": step,
        "parameters": {
            name: whole(p).detach().cpu() for name, p in module.named_parameters() if p.requires_grad
        },
        "optimizer": _optimizer_state(module, optimizer, ranks),
        **extra,
    }
    if not ranks.is_main:
        return
    os.makedirs(folder, exist_ok=True)
    write_torch(content, path_of(folder, step))
    for name in _complete(folder)[:-keep]:
        os.remove(os.path.join(folder, name))
    for name in os.listdir(folder):
        if name.endswith(".tmp"):  # of a process that was killed
            os.remove(os.path.join(folder, name))


def read(path: str) -> dict[str, Any]:
    """Raises RuntimeError where the file is damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types
        raise RuntimeError(
            f"{path} is damaged, remove it to go on from the checkpoint before it: {error}"
        ) from None
    assert isinstance(content, dict)
    return content


def restore(
    content: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Puts what `save` wrote back."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if trained.keys() != content["parameters"].keys():
        raise RuntimeError("the checkpoint is of a run that trained other parameters")
    with torch.no_grad():
        for name, parameter in trained.items():
            saved = content["parameters"][name].to(parameter.device)
            if ranks.sharded:
                from torch.distributed.tensor import distribute_tensor

                mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
                saved = distribute_tensor(saved, mesh, placements)
            parameter.copy_(saved)
    if ranks.sharded:
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(module, optimizer, content["optimizer"], options=options)
    else:
        optimizer.load_state_dict(content["optimizer"])


def _optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> dict[str, Any]:
    if ranks.sharded:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return dict(get_optimizer_state_dict(module, optimizer, options=options))
    return optimizer.state_dict()
