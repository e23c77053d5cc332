#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/common/control.h"

namespace torchwhisper::audio {

inline constexpr std::int64_t kFftSize = 400;    ///< samples of one frame
inline constexpr std::int64_t kHopLength = 160;  ///< samples from frame to frame: 10 ms

/// The log-mel spectrogram of a whole recording, in blocks: beside the result it needs memory for 30 s.
///
/// audio: float32 on the CPU, [samples] or [batch, samples], 16 kHz. filters: [mels, 201].
/// padding: zero samples to append. Returns [mels, frames] or [batch, mels, frames] with
/// frames = (samples + padding) / 160: log10 of the energies, at most 8 below the largest of the whole
/// tensor, then (x + 4) / 4. Steps `control` per block with the frames done.
/// Throws ValueError for other shapes and for samples that are not finite or as large as 1e15, naming the
/// first; RuntimeError for less than 201 samples, as they cannot be mirrored at the ends.
/// Source: whisper/audio.py log_mel_spectrogram.
TORCHWHISPER_API at::Tensor log_mel_spectrogram(const at::Tensor& audio, const at::Tensor& filters,
                                                std::int64_t padding, common::Control& control);

/// The index of the first sample that is not finite or as large as 1e15, or -1. audio: float32 on the CPU.
TORCHWHISPER_API std::int64_t first_unusable_sample(const at::Tensor& audio);

}  // namespace torchwhisper::audio
