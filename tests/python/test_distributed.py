"""Several processes: DistributedDataParallel and fully_shard (FSDP2) over gloo, in both packages."""

import importlib
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import SMALL, fill
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

PROCESSES = 2


def make(package):
    module = importlib.import_module(f"{package}.model")
    model = module.Whisper(module.ModelDimensions(**SMALL))
    fill(model, 0)
    return model


def batch(rank):
    generator = torch.Generator().manual_seed(rank)
    mel = torch.randn(1, SMALL["n_mels"], 2 * SMALL["n_audio_ctx"], generator=generator)
    return mel, torch.randint(0, 50000, (1, 9), generator=generator)


def loss_of(model, rank):
    return model(*batch(rank)).square().mean()


def gradients_of_both_batches(package):
    """What one process computes on the data of all."""
    model = make(package)
    (sum(loss_of(model, rank) for rank in range(PROCESSES)) / PROCESSES).backward()
    return model, {name: p.grad for name, p in model.named_parameters()}


def assert_same(got, wanted):
    for name, tensor in wanted.items():
        assert (got[name] - tensor).abs().max() <= 1e-5 * tensor.abs().max(), name


def data_parallel(rank):
    from torchwhisper import _engine, explain

    with pytest.raises(Exception, match=r"[Ss]parse"):  # the buffer of alignment heads
        DistributedDataParallel(make("whisper"))
    dist.barrier()

    model = make("torchwhisper")
    wrapped = DistributedDataParallel(model)
    assert explain(model).startswith("C++ engine")
    with _engine.require():
        loss_of(wrapped, rank).backward()
        _, wanted = gradients_of_both_batches("torchwhisper")
    assert_same({name: p.grad for name, p in model.named_parameters()}, wanted)
    assert model.alignment_heads.is_sparse


class Wrapper(torch.nn.Module):
    """As training frameworks hold a model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, mel, tokens):
        return self.model(mel, tokens)


def adapted(package):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    return peft.get_peft_model(make(package), peft.LoraConfig(r=2, target_modules=["query", "value"]))


def wrapped(package):
    return Wrapper(make(package))


def data_parallel_inside_others(rank):
    for wrap in (adapted, wrapped):
        model, alone = wrap("torchwhisper"), wrap("torchwhisper")
        spread = DistributedDataParallel(model)
        loss_of(spread, rank).backward()
        (sum(loss_of(alone, r) for r in range(PROCESSES)) / PROCESSES).backward()
        assert_same(gradients(model), gradients(alone))
    for wrap in (adapted, wrapped):  # last, since what fails leaves the processes out of step
        with pytest.raises(Exception, match=r"[Ss]parse"):
            DistributedDataParallel(wrap("whisper"))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def fully_sharded(rank):
    from torchwhisper import explain

    mesh = init_device_mesh("cpu", (PROCESSES,))
    logits = {}
    for package in ("whisper", "torchwhisper"):
        model = make(package)
        for block in (*model.encoder.blocks, *model.decoder.blocks):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert isinstance(model.encoder.conv1.weight, DTensor)
        loss_of(model, rank).backward()
        unsharded, wanted = gradients_of_both_batches(package)
        assert_same({name: p.grad.full_tensor() for name, p in model.named_parameters()}, wanted)

        torch.optim.SGD(model.parameters(), lr=0.1).step()
        torch.optim.SGD(unsharded.parameters(), lr=0.1).step()
        whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        if rank == 0:
            assert_same(whole, unsharded.state_dict())
        with torch.no_grad():
            logits[package] = model(*batch(7))
        if package == "torchwhisper":
            assert "FSDPWhisper" in explain(model)
    assert torch.allclose(*logits.values(), atol=1e-4)


def _process(rank, work, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=PROCESSES)
    try:
        work(rank)
    except BaseException:
        (folder / f"error{rank}").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("work", [data_parallel, data_parallel_inside_others, fully_sharded])
def test_in_several_processes(work, tmp_path):
    try:
        mp.spawn(_process, (work, tmp_path), nprocs=PROCESSES)
    except Exception:
        pytest.fail("\n".join(path.read_text() for path in tmp_path.glob("error*")))
