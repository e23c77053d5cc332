"""The C++ engine. One section per room of csrc/."""

from collections.abc import Callable

import torch
from numpy import float32
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Buffer

# --- common -----------------------------------------------------------------------------------------------

torch_version: str  # that it was built with

class Cancelled(Exception): ...  # what a computation raises after Control.cancel()

class Control:
    """Cancels a running computation and watches its progress."""

    def __init__(self, progress: Callable[[str, int], None] | None = None) -> None: ...
    def cancel(self) -> None: ...
    @property
    def cancelled(self) -> bool: ...

def set_log_level(level: str) -> None: ...

# --- audio ------------------------------------------------------------------------------------------------

class SoundError(RuntimeError): ...
class UnsupportedSound(SoundError): ...

def load_audio(path: bytes, sample_rate: int, control: Control) -> tuple[NDArray[float32], str]: ...
def audio_seconds(path: bytes) -> float: ...
def decode_audio(encoded: Buffer, sample_rate: int, control: Control) -> tuple[NDArray[float32], str]: ...
def resample(samples: NDArray[float32], from_rate: int, to_rate: int) -> NDArray[float32]: ...
def log_mel_spectrogram(audio: Tensor, filters: Tensor, padding: int, control: Control) -> Tensor: ...
def mel_filters(mels: int) -> Tensor: ...

# --- model ------------------------------------------------------------------------------------------------

class AudioEncoder:
    def __init__(self, dims: dict[str, int], tensors: dict[str, Tensor]) -> None: ...
    def forward(
        self,
        mel: Tensor,
        control: Control,
        policy: str = "",
        every: int = 1,
        stochastic_depth: float = 0.0,
    ) -> Tensor: ...
    def named_parameters(self) -> list[tuple[str, Tensor]]: ...

class TextDecoder:
    def __init__(self, dims: dict[str, int], tensors: dict[str, Tensor]) -> None: ...
    def forward(
        self,
        tokens: Tensor,
        audio_features: Tensor,
        control: Control,
        policy: str = "",
        every: int = 1,
        stochastic_depth: float = 0.0,
    ) -> Tensor: ...
    def hidden(
        self,
        tokens: Tensor,
        audio_features: Tensor,
        control: Control,
        policy: str = "",
        every: int = 1,
        stochastic_depth: float = 0.0,
    ) -> Tensor: ...
    def named_parameters(self) -> list[tuple[str, Tensor]]: ...

class AudioMemory:
    """What the decoder keeps of a batch of windows: keys and values in every layer."""

class Whisper:
    """Adopts the tensors given by their state_dict names; `prepare` adds packed weights for inference."""

    def __init__(self, dims: dict[str, int], tensors: dict[str, Tensor]) -> None: ...
    def forward(self, mel: Tensor, tokens: Tensor, control: Control) -> Tensor: ...
    def embed_audio(self, mel: Tensor, control: Control) -> Tensor: ...
    def logits(self, tokens: Tensor, audio_features: Tensor, control: Control) -> Tensor: ...
    def remember(self, audio_features: Tensor, control: Control) -> AudioMemory: ...
    def named_parameters(self) -> list[tuple[str, Tensor]]: ...
    def prepare(self, dtype: torch.dtype, compute_type: str, control: Control) -> None: ...
    def fingerprint(self, control: Control) -> int: ...

def compute_type_obstacle(compute_type: str) -> str | None: ...
def supported_compute_types() -> list[str]: ...
def cross_attention(
    model: Whisper,
    tokens: Tensor,
    memory: AudioMemory,
    heads: list[tuple[int, int]],
    control: Control,
) -> tuple[Tensor, Tensor]: ...
def text_probabilities(
    model: Whisper, hidden: Tensor, text_tokens: list[int], eot: int, control: Control
) -> list[float]: ...

# --- decoding ---------------------------------------------------------------------------------------------

class DecodingOptions:
    def __init__(
        self,
        *,
        n_group: int,
        sample_len: int,
        n_ctx: int,
        sot_index: int,
        sample_begin: int,
        eot: int,
        no_speech: int,
        temperature: float,
        beam_size: int,
        patience: float,
        length_penalty: float | None,
        suppress_tokens: list[int],
        suppress_blank: list[int],
        timestamp_begin: int,
        no_timestamps: int,
        max_initial_timestamp_index: int,
    ) -> None: ...

class DecodingResult:
    @property
    def tokens(self) -> list[int]: ...
    @property
    def sum_logprob(self) -> float: ...
    @property
    def no_speech_prob(self) -> float: ...

def decode(
    model: Whisper,
    memory: AudioMemory,
    initial_tokens: list[list[int]],
    options: DecodingOptions,
    control: Control,
) -> list[DecodingResult]: ...

# --- timing -----------------------------------------------------------------------------------------------

def dtw(cost: Tensor, control: Control) -> Tensor: ...
def backtrace(trace: Tensor) -> Tensor: ...
def median_filter(x: Tensor, width: int) -> Tensor: ...
def align(
    qk: Tensor, sot_length: int, num_frames: int, medfilt_width: int, qk_scale: float, control: Control
) -> Tensor: ...
def token_probabilities(logits: Tensor, text_tokens: list[int], sot_length: int, eot: int) -> list[float]: ...
