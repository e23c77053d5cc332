"""How fast this machine multiplies matrices: what an encoder can be measured against."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import workers

_REPEATS = 10  # in one run
_FRAMES = 1500


def operations(size: str) -> tuple[float, float]:
    """Floating-point operations of one window: of the encoder's matrix products and of its attention."""
    dims = common.SIZES[size]
    mels, state, layers = dims["n_mels"], dims["n_audio_state"], dims["n_audio_layer"]
    convolutions = 2 * 2 * _FRAMES * 3 * mels * state + 2 * _FRAMES * 3 * state * state
    products = 24 * _FRAMES * state * state * layers
    return convolutions + products, 4 * _FRAMES * _FRAMES * state * layers


def job(kind: str, size: str, threads: int) -> dict[str, Any]:
    """kind: float32, bfloat16 or int8"""
    return {"engine": f"GEMM {kind}", "gemm": kind, "size": size, "threads": threads}


def open_run(job: dict[str, Any]) -> workers.Run:
    """In a worker: gives the seconds of one product by the fastest of the ways that torch has.

    The product is that of the first layer of the encoder's MLP, with its bias.
    """
    import torch

    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    state = common.SIZES[job["size"]]["n_audio_state"]
    torch.manual_seed(0)
    x, weight, bias = torch.randn(_FRAMES, state), torch.randn(4 * state, state), torch.randn(4 * state)
    ways = {"float32": _float32, "bfloat16": _bfloat16, "int8": _int8}[job["gemm"]](x, weight, bias)

    def run(_: Any) -> float:
        return min(_seconds(way) for way in ways)

    return run


def _seconds(way: Callable[[], Any]) -> float:
    import time

    way()
    start = time.perf_counter()
    for _ in range(_REPEATS):
        way()
    return (time.perf_counter() - start) / _REPEATS


def _float32(x: Any, weight: Any, bias: Any) -> list[Callable[[], Any]]:
    import torch

    ways: list[Callable[[], Any]] = [partial(torch.nn.functional.linear, x, weight, bias)]
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])
        ways.append(partial(torch.ops.mkldnn._linear_pointwise, x, packed, bias, "none", [], ""))
    return ways


def _bfloat16(x: Any, weight: Any, bias: Any) -> list[Callable[[], Any]]:
    import torch

    return _float32(*(tensor.to(torch.bfloat16) for tensor in (x, weight, bias)))


def _int8(x: Any, weight: Any, bias: Any) -> list[Callable[[], Any]]:
    """The activations are quantized in the product: that belongs to its price."""
    import torch

    ways: list[Callable[[], Any]] = []
    warnings.filterwarnings("ignore", ".*quantized tensor creation functions.*")
    rows = torch.quantize_per_channel(
        weight, weight.abs().amax(1) / 127, torch.zeros(len(weight), dtype=torch.int64), 0, torch.qint8
    )
    for backend in torch.backends.quantized.supported_engines:
        if backend in ("onednn", "fbgemm"):
            torch.backends.quantized.engine = backend
            packed = torch.ops.quantized.linear_prepack(rows, bias)
            ways.append(partial(torch.ops.quantized.linear_dynamic, x, packed, reduce_range=False))
    return ways
