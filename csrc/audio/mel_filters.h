#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"

namespace torchwhisper::audio {

/// Triangular filters on the mel scale of Slaney's Auditory Toolbox, each of unit area, for FFT frames of
/// 400 samples at 16 kHz: float32 [mels, 201]. The tensors of mel_filters.npz (mel_80, mel_128) hold the
/// same values. Throws ValueError for less than one mel.
TORCHWHISPER_API at::Tensor mel_filters(std::int64_t mels);

}  // namespace torchwhisper::audio
