"""The processes of a run, one per device, as torchrun starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

PARALLEL = ("ddp", "fsdp")


class Interrupted(Exception):
    """The run was asked to stop, and its state is saved."""


class RankError(RuntimeError):
    """An error of any rank, told on every rank."""


class Ranks:
    """This process among those of its run; one that was not started by torchrun is alone."""

    def __init__(self, parallel: str = "ddp", device: str | None = None) -> None:
        """parallel: how the model is spread over several ranks, one of PARALLEL.
        device: "cpu" or "cuda"; the latter where there is one, by default.

        Raises:
            RuntimeError: "cuda" where there is none.
        """
        self.parallel = parallel
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("the device is cuda, and PyTorch finds none: take cpu")
            if self.world > 1:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._started = "RANK" in os.environ and not dist.is_initialized()
        if self._started:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each rank holds only a part of every parameter."""
        return self.parallel == "fsdp" and dist.is_initialized()

    def close(self) -> None:
        if self._started and dist.is_initialized():
            dist.destroy_process_group()

    def sum(self, *numbers: float) -> list[float]:
        """The sum of each number over the ranks."""
        if self.world == 1:
            return list(numbers)
        # Exact for counts of tokens, and the same on every rank.
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(number) for number in total.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def spread(self, module: nn.Module, blocks: list[nn.Module]) -> nn.Module:
        """The module as the ranks train it together. fsdp shards the blocks one by one, and then the rest."""
        if self.sharded:
            mesh = init_device_mesh(self.device.type, (self.world,))
            for block in blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(module, mesh=mesh)
            return module
        if self.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # Every rank has loaded the same weights.
            return DistributedDataParallel(
                module,
                device_ids=ids,
                init_sync=False,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        return module

    @contextmanager
    def accumulating(self, module: nn.Module, last: bool) -> Iterator[None]:
        """A forward and backward pass; gradients are exchanged in the last of a step only."""
        if isinstance(module, DistributedDataParallel) and not last:
            with module.no_sync():
                yield
            return
        if self.sharded:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one rank would have it; every rank has to call this for a sharded one."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()
