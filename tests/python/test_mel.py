"""Log-mel spectrograms: those of openai-whisper, in less memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import JFK, SHARED, needs_shared

import torchwhisper.audio as audio
from torchwhisper import _C

whisper = pytest.importorskip("whisper")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.1


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert ours.device == theirs.device
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("padding", [0, 1, 480_000])
def test_the_bundled_recording(n_mels: int, padding: int) -> None:
    samples = audio.load_audio(JFK)
    ours = audio.log_mel_spectrogram(samples, n_mels, padding)
    assert_same(ours, whisper.log_mel_spectrogram(samples, n_mels, padding))
    assert ours.shape == (n_mels, (len(samples) + padding) // 160)


@needs_shared
def test_the_shared_recordings() -> None:
    for path in sorted((SHARED / "audio").glob("*.flac")):
        samples = audio.load_audio(path)
        ours = audio.log_mel_spectrogram(samples, padding=audio.N_SAMPLES)
        assert_same(ours, whisper.log_mel_spectrogram(samples, padding=audio.N_SAMPLES))


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(201, 70_000),
    padding=st.sampled_from([0, 0, 1, 159, 4000]),
    n_mels=st.sampled_from([80, 128]),
    batch=st.sampled_from([None, None, 1, 3]),
    seed=st.integers(0, 99),
)
def test_any_length(samples: int, padding: int, n_mels: int, batch: int | None, seed: int) -> None:
    signal = noise(*([] if batch is None else [batch]), samples, seed=seed)
    assert_same(
        audio.log_mel_spectrogram(signal, n_mels, padding),
        whisper.log_mel_spectrogram(signal, n_mels, padding),
    )


def test_a_path_equals_its_samples() -> None:
    samples = audio.load_audio(JFK)
    for path in (JFK, str(JFK)):
        assert torch.equal(audio.log_mel_spectrogram(path), audio.log_mel_spectrogram(samples))


def test_the_largest_spans_the_batch() -> None:
    loud = noise(16000)
    batch = torch.stack([loud, loud * 1e-5])
    together = audio.log_mel_spectrogram(batch)
    assert_same(together, whisper.log_mel_spectrogram(batch))
    assert not torch.equal(together[1], audio.log_mel_spectrogram(batch[1]))


def test_silence() -> None:
    assert_same(
        audio.log_mel_spectrogram(torch.zeros(32000)), whisper.log_mel_spectrogram(torch.zeros(32000))
    )


def test_no_samples_but_padding() -> None:
    empty = np.zeros(0, np.float32)
    assert_same(
        audio.log_mel_spectrogram(empty, padding=audio.N_SAMPLES),
        whisper.log_mel_spectrogram(empty, padding=audio.N_SAMPLES),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floating_types_are_converted(dtype: torch.dtype) -> None:
    signal = noise(16000).to(dtype)
    expected = whisper.log_mel_spectrogram(signal.float())
    assert_same(audio.log_mel_spectrogram(signal), expected)
    if dtype != torch.bfloat16:
        assert_same(audio.log_mel_spectrogram(signal.numpy()), expected)


@pytest.mark.parametrize(("dtype", "scale"), [(np.int16, 2**15), (np.int32, 2**31)])
def test_integers_are_scaled_by_their_full_range(dtype: type, scale: int) -> None:
    signal = (noise(16000, dtype=torch.float64).numpy() * scale).astype(dtype)
    expected = whisper.log_mel_spectrogram((signal / scale).astype(np.float32))
    assert_same(audio.log_mel_spectrogram(signal), expected)
    assert_same(audio.log_mel_spectrogram(torch.from_numpy(signal)), expected)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.uint16, np.int64, np.bool_, np.complex64, np.object_]
)
def test_other_types_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="expected floating point, int16 or int32"):
        audio.log_mel_spectrogram(np.zeros(16000, dtype))


def test_arrays_of_any_layout() -> None:
    signal = noise(2, 32000).numpy()
    for view in (signal[:, ::2], signal[:, ::-1], signal.T.copy().T, signal.astype(">f4")):
        expected = whisper.log_mel_spectrogram(np.ascontiguousarray(view, np.float32))
        assert_same(audio.log_mel_spectrogram(view), expected)
    signal.flags.writeable = False
    assert_same(audio.log_mel_spectrogram(signal), whisper.log_mel_spectrogram(signal.copy()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_the_first_unusable_sample_is_named(bad: float) -> None:
    signal = np.zeros(50_000, np.float32)
    signal[[12_345, 40_000]] = bad
    with pytest.raises(ValueError, match=r"audio sample 12345 is .*, expected a finite number"):
        audio.log_mel_spectrogram(signal)
    with pytest.raises(ValueError, match=r"audio sample \[1, 12345\] is"):
        audio.log_mel_spectrogram(np.stack([np.zeros_like(signal), signal]))
    with pytest.raises(ValueError, match="audio sample 12345 is"):
        audio.log_mel_spectrogram(torch.from_numpy(signal).requires_grad_())


def test_denormals_are_fine() -> None:
    signal = torch.full((16000,), 1e-42)
    assert_same(audio.log_mel_spectrogram(signal), whisper.log_mel_spectrogram(signal))


@pytest.mark.parametrize("shape", [(), (1, 1, 16000), (0, 16000)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the audio has shape|the batch is empty"):
        audio.log_mel_spectrogram(torch.zeros(shape))


def test_too_short_to_mirror() -> None:
    with pytest.raises(RuntimeError, match="the audio has 200 samples, expected more than 200"):
        audio.log_mel_spectrogram(torch.zeros(200))


def test_gradients_flow_as_in_the_reference() -> None:
    ours, theirs = (noise(16000).requires_grad_() for _ in range(2))
    weights = noise(80, 100, seed=1)
    (audio.log_mel_spectrogram(ours) * weights).sum().backward()
    (whisper.log_mel_spectrogram(theirs) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.no_grad():
        assert not audio.log_mel_spectrogram(ours).requires_grad


def test_the_input_stays_as_it_is() -> None:
    signal = noise(20_000)
    before = signal.clone()
    audio.log_mel_spectrogram(signal, padding=100)
    assert torch.equal(signal, before)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_computed_filters_equal_the_stored_ones(n_mels: int) -> None:
    stored = audio.mel_filters("cpu", n_mels)
    torch.testing.assert_close(_C.mel_filters(n_mels), stored, rtol=3e-7, atol=1e-10)
    assert torch.equal(stored, whisper.audio.mel_filters("cpu", n_mels))
    assert audio.mel_filters("cpu", n_mels) is stored


def test_other_numbers_of_mels() -> None:
    with pytest.raises(AssertionError, match="Unsupported n_mels: 40"):
        audio.log_mel_spectrogram(noise(16000), n_mels=40)


PEAK = """
import sys, numpy as np
from pathlib import Path
package = __import__(sys.argv[1])
from importlib import import_module
audio = import_module(sys.argv[1] + ".audio")
samples = np.random.default_rng(0).random(16000 * 60 * 10, np.float32)
audio.log_mel_spectrogram(samples[:160000])
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
audio.log_mel_spectrogram(samples, padding=480000)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc to read the peak memory")
def test_long_recordings_need_little_memory() -> None:
    def growth(package: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", PEAK, package], check=True, stdout=subprocess.PIPE, text=True
        )
        return float(done.stdout)

    result = 80 * 63_000 * 4 / 2**20  # the spectrogram of 10 min itself
    ours = growth("torchwhisper")
    assert 0 < ours < result + 40
    assert ours < growth("whisper") / 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the spectrogram there is skipped")
def test_cuda() -> None:
    signal = noise(40_000)
    for moved in (audio.log_mel_spectrogram(signal, device="cuda"), audio.log_mel_spectrogram(signal.cuda())):
        assert moved.device.type == "cuda"
        torch.testing.assert_close(moved.cpu(), whisper.log_mel_spectrogram(signal), rtol=0, atol=1e-4)
