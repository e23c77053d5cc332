"""The median filter: the numbers of openai-whisper's, on any shape, width and type."""

import numpy as np
import pytest
import scipy.ndimage
import torch
import whisper.timing as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from torchwhisper import timing, triton_ops

WIDTHS = st.integers(0, 10).map(lambda half: 2 * half + 1) | st.sampled_from([31, 33, 51])
NUMBERS = st.floats(-100, 100, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0])


def assert_same(x, width):
    expected = reference.median_filter(x, width)
    got = timing.median_filter(x, width)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@settings(deadline=None)
@given(
    npst.arrays(np.float32, npst.array_shapes(max_dims=4, max_side=6) | st.just((2, 100)), elements=NUMBERS),
    WIDTHS,
)
def test_equals_the_reference(x, width):
    assert_same(torch.from_numpy(x), width)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("width", [1, 3, 7, 13, 35])
def test_types(dtype, width):
    x = (torch.randn(3, 4, 150, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    assert_same(x, width)
    assert_same(x.transpose(0, 2), width if width < 7 else 1)


@pytest.mark.parametrize("shape", [(10,), (1, 15), (4, 5, 345), (2, 3, 24, 512)])
@pytest.mark.parametrize("width", [3, 5, 7, 13])
def test_equals_scipy(shape, width):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    size = (1,) * (x.ndim - 1) + (width,)
    # scipy calls this edge "mirror"; torch calls it "reflect".
    expected = scipy.ndimage.median_filter(x.numpy(), size, mode="mirror")
    np.testing.assert_array_equal(timing.median_filter(x, width).numpy(), expected)


@pytest.mark.parametrize("width", [7, 8, 21])
def test_short_rows_come_back_as_they_are(width):
    x = torch.randn(2, 3)
    assert timing.median_filter(x, width) is x
    assert reference.median_filter(x, width) is x


@pytest.mark.parametrize("width", [-1, 0, 2, 4])
def test_refuses_even_widths(width):
    for median_filter in (reference.median_filter, timing.median_filter):
        with pytest.raises(AssertionError, match="`filter_width` should be an odd number"):
            median_filter(torch.randn(9), width)


def test_leaves_its_input_alone():
    x = torch.randn(3, 50)
    before = x.clone()
    timing.median_filter(x, 7)
    assert torch.equal(x, before)


def test_passes_gradients():
    grads = []
    for median_filter in (reference.median_filter, timing.median_filter):
        x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (median_filter(x, 7) * torch.arange(50)).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_triton_ops_filter_a_padded_tensor():
    x = torch.randn(2, 3, 40)
    padded = torch.nn.functional.pad(x, (3, 3), mode="reflect")
    assert torch.equal(triton_ops.median_filter_cuda(padded, 7), timing.median_filter(x, 7))


@pytest.mark.parametrize(("kernel", "instead"), [("dtw_kernel", "dtw"), ("median_kernel", "median_filter")])
def test_missing_kernels_say_what_to_call(kernel, instead):
    with pytest.raises(ImportError, match=rf"call torchwhisper\.timing\.{instead}"):
        exec(f"from torchwhisper.triton_ops import {kernel}")
    assert not hasattr(triton_ops, "no_such_name")
