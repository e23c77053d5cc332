"""The chunked loss against the loss of all logits at once."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from torchwhisper.training import IGNORED, chunked_cross_entropy, loss

VOCABULARY = 301


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(loss, "_PIECE_BYTES", {"cpu": 4 * VOCABULARY * 16})


def make(dtype=torch.float32, n_ignored=10):
    torch.manual_seed(0)
    hidden = torch.randn(3, 25, 24, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, 24, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (3, 25))
    targets.view(-1)[torch.randperm(75)[:n_ignored]] = IGNORED
    return hidden, weight, targets


def whole(hidden, weight, targets, reduction="mean"):
    logits = (hidden @ weight.to(hidden.dtype).t()).float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


@pytest.mark.parametrize("n_ignored", [0, 10, 74])
def test_loss_and_gradients_equal_those_of_all_logits(n_ignored):
    hidden, weight, targets = make(n_ignored=n_ignored)
    expected = whole(hidden, weight, targets)
    found = chunked_cross_entropy(hidden, weight, targets)
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    inputs = (hidden, weight)
    of_found, of_expected = torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs)
    for got, want in zip(of_found, of_expected, strict=True):
        assert_close(got, want, rtol=0, atol=3e-6 * want.abs().max().item())


def test_normalizer_and_scale_of_the_gradient():
    hidden, weight, targets = make()
    found = torch.autograd.grad(3 * chunked_cross_entropy(hidden, weight, targets, 50.0), (hidden, weight))
    expected = torch.autograd.grad(3 / 50 * whole(hidden, weight, targets, "sum"), (hidden, weight))
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want, rtol=0, atol=3e-6 * want.abs().max().item())


def test_nothing_counts():
    hidden, weight, targets = make(n_ignored=75)
    found = chunked_cross_entropy(hidden, weight, targets)
    assert found == 0
    assert all(not grad.any() for grad in torch.autograd.grad(found, (hidden, weight)))


@pytest.mark.parametrize("frozen", [0, 1])
def test_gradient_of_one_input_only(frozen):
    inputs = make()
    expected = torch.autograd.grad(chunked_cross_entropy(*inputs), inputs[1 - frozen])[0]
    inputs[frozen].requires_grad_(False)
    assert torch.equal(torch.autograd.grad(chunked_cross_entropy(*inputs), inputs[1 - frozen])[0], expected)


@pytest.mark.parametrize("hidden_type", [torch.float32, torch.bfloat16])
def test_autocast(hidden_type):
    hidden, weight, targets = make(hidden_type)
    with torch.autocast("cpu", torch.bfloat16):
        expected = torch.autograd.grad(whole(hidden, weight, targets), (hidden, weight))
        found = torch.autograd.grad(chunked_cross_entropy(hidden, weight, targets), (hidden, weight))
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        assert_close(got, want, rtol=0, atol=0.02 * want.abs().max().item())


class _Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_the_logits_of_the_batch_never_exist():
    hidden, weight, targets = make(n_ignored=0)
    with _Largest() as largest:
        chunked_cross_entropy(hidden, weight, targets).backward()
    assert largest.numel < targets.numel() * VOCABULARY / 2
    assert largest.numel == weight.numel()


def test_an_impossible_target_has_a_finite_loss():
    hidden, weight, targets = make(n_ignored=0)
    hidden = (100 * hidden).detach().requires_grad_()
    assert_close(
        chunked_cross_entropy(hidden, weight, targets), whole(hidden, weight, targets), rtol=1e-5, atol=0
    )


def test_the_gradient_can_be_asked_for_twice():
    hidden, weight, targets = make()
    found = 2 * chunked_cross_entropy(hidden, weight, targets)
    first = torch.autograd.grad(found, weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(found, weight)[0], first)


def test_gradients_of_gradients_are_refused():
    hidden, weight, targets = make()
    with pytest.raises(RuntimeError, match="first-order gradients only"):
        torch.autograd.grad(chunked_cross_entropy(hidden, weight, targets), hidden, create_graph=True)
