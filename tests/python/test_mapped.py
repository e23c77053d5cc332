"""Whether mapped tensors were written to, and that they are out of memory when nobody needs them."""

import sys

import numpy as np
import pytest
import torch

import torchwhisper
from torchwhisper import _bundled, _mapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/pagemap")


@pytest.fixture
def tensors(tmp_path):
    path = tmp_path / "tensors.pt"
    torch.save({name: torch.arange(5000 + i).half() for i, name in enumerate("abc")}, path)
    return torch.load(path, mmap=True)


def resident(tensor):
    """How many pages of the tensor are in memory."""
    page = _mapped._PAGE
    begin, end = tensor.data_ptr() // page, -(-(tensor.data_ptr() + tensor.nbytes) // page)
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(begin * 8)
        return int((np.frombuffer(pages.read((end - begin) * 8), np.uint64) >> np.uint64(63)).sum())


def test_tensors_as_in_the_file(tensors):
    before = _mapped.files_of(tensors.values())
    assert len(before) == 1
    for tensor in tensors.values():
        assert tensor.float().sum() > 0
    assert _mapped.files_of(tensors.values()) == before


@pytest.mark.parametrize(("name", "index"), [("a", 0), ("b", 2500), ("c", -1)])
def test_one_number_that_was_written(tensors, name, index):
    assert _mapped.files_of(tensors.values()) is not None
    tensors[name].numpy()[index] = -1
    assert _mapped.files_of(tensors.values()) is None
    _mapped.let_go(tensors.values())
    assert tensors[name][index] == -1
    assert _mapped.files_of(tensors.values()) is None


def test_a_tensor_that_lies_elsewhere(tensors):
    assert _mapped.files_of([*tensors.values(), torch.zeros(3)]) is None
    assert _mapped.files_of([torch.zeros(3)]) is None


def test_a_file_that_was_written_into(tensors, tmp_path):
    before = _mapped.files_of(tensors.values())
    with open(tmp_path / "tensors.pt", "r+b") as file:
        file.seek(0, 2)
        file.write(b"more")
    assert _mapped.files_of(tensors.values()) not in (before, None)


def test_what_is_let_go_leaves_memory_and_comes_back(tensors):
    sums = [tensor.double().sum() for tensor in tensors.values()]
    assert all(resident(tensor) for tensor in tensors.values())
    _mapped.let_go(tensors.values())
    assert sum(resident(tensor) for tensor in tensors.values()) == 0
    assert [tensor.double().sum() for tensor in tensors.values()] == sums


def test_packed_weights_are_in_memory_once(tmp_path):
    torch.save(_bundled.load("demo"), tmp_path / "demo.pt")
    model = torchwhisper.load_model(tmp_path / "demo.pt", device="cpu", compute_type="float32")
    torchwhisper.decode(model, torch.zeros(80, 3000), language="en", fp16=False, sample_len=2)
    weight = model.decoder.token_embedding.weight
    assert resident(weight) * _mapped._PAGE < weight.nbytes / 4
