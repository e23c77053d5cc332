#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"

namespace torchwhisper::timing {

/// Median filter along the last dimension, mirrored at the ends without repeating the edge.
///
/// x: float16, bfloat16, float32 or float64 on the CPU, any shape. width: odd.
/// Returns a new tensor like x. NaN counts as the largest number, as in a sort. Rows not longer than
/// width / 2 cannot be mirrored: x comes back as it is. Throws ValueError for an even width or another type.
/// Source: whisper/timing.py median_filter.
TORCHWHISPER_API at::Tensor median_filter(const at::Tensor& x, std::int64_t width);

}  // namespace torchwhisper::timing
