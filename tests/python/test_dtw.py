"""Dynamic time warping: step for step the path of openai-whisper's dtw_cpu."""

import numpy as np
import pytest
import torch
import whisper.timing as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from torchwhisper import timing

SHAPES = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)


def assert_same_path(cost):
    # (numba compiles a while for every other type and layout)
    expected = reference.dtw_cpu(np.array(cost, dtype=np.float64, order="C"))
    got = timing.dtw_cpu(cost)
    assert got.dtype == expected.dtype == np.int64
    np.testing.assert_array_equal(got, expected)


@settings(deadline=None)
@given(npst.arrays(np.float64, SHAPES, elements=st.integers(-2, 2)))
def test_ties_go_the_reference_way(cost):
    assert_same_path(cost)


@settings(deadline=None)
@given(npst.arrays(np.float64, SHAPES, elements=st.floats(-1e300, 1e300)))
def test_any_costs(cost):
    assert_same_path(cost)


@settings(deadline=None)
@given(npst.arrays(np.float64, SHAPES, elements=st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, -np.inf])))
def test_costs_that_are_no_numbers(cost):
    assert_same_path(cost)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (57, 311), (224, 1500)])
def test_sizes_and_types(shape, dtype):
    cost = (np.random.default_rng(0).normal(size=shape) * 20).astype(dtype)
    assert_same_path(cost)
    assert_same_path(cost[::-1, ::-1])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_side_answers_as_the_reference(shape):
    assert_same_path(np.zeros(shape))


def test_no_costs_no_path():
    assert timing.dtw_cpu(np.zeros((0, 0))).shape == (2, 0)


@pytest.mark.parametrize(("rows", "columns"), [(10, 20), (32, 16), (123, 1500), (234, 189)])
def test_finds_a_planted_path(rows, columns):
    rng = np.random.default_rng(42)
    moves = rng.permutation([(1, 0)] * (rows - 1) + [(0, 1)] * (columns - 1))
    path = np.vstack([[0, 0], np.cumsum(moves, axis=0)]).T
    cost = np.ones((rows, columns))
    cost[tuple(path)] = -1
    np.testing.assert_array_equal(timing.dtw_cpu(cost), path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_dtw_of_tensors(dtype):
    cost = torch.randn(20, 70, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = reference.dtw(cost)
    np.testing.assert_array_equal(timing.dtw(cost), expected)
    np.testing.assert_array_equal(timing.dtw(cost.clone().requires_grad_()), expected)
    np.testing.assert_array_equal(timing.dtw_cuda(cost, BLOCK_SIZE=16), expected)


def test_dtw_leaves_the_costs_alone():
    cost = np.random.default_rng(0).normal(size=(8, 9))
    before = cost.copy()
    cost.flags.writeable = False
    timing.dtw_cpu(cost)
    np.testing.assert_array_equal(cost, before)


@given(npst.arrays(np.float32, SHAPES, elements=st.sampled_from([0, 1, 2])))
@settings(deadline=None)
def test_backtrace(trace):
    theirs, ours = trace.copy(), trace.copy()
    expected = reference.backtrace(theirs) if trace.size > 1 else np.zeros((2, 0))
    np.testing.assert_array_equal(timing.backtrace(ours), expected)
    if trace.size > 1:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [-1, 3, 0.5, np.nan])
def test_backtrace_refuses_an_unknown_move(value):
    trace = np.full((3, 3), value)
    for backtrace in (reference.backtrace, timing.backtrace):
        with pytest.raises(ValueError, match=r"Unexpected trace\[i, j\]"):
            backtrace(trace.copy())


def test_dtw_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match="expected \\(tokens, frames\\)"):
        timing.dtw_cpu(np.zeros(3))
