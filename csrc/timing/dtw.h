#pragma once

#include <ATen/core/Tensor.h>

#include "csrc/common/api.h"
#include "csrc/common/control.h"

namespace torchwhisper::timing {

/// How the cheapest path entered a cell of the cost matrix.
enum class Move : std::int8_t { kDiagonal = 0, kDown = 1, kRight = 2 };

/// The cheapest monotone path through a matrix of costs (dynamic time warping).
///
/// cost: [tokens, frames], any real type; sums are formed in double.
/// Returns int64 [2, length]: the row and the column of every step, first to last. On ties a step to the
/// right wins; NaN counts as a tie. An empty side gives index -1 for it, both empty an empty path.
/// Steps `control` once per row. Throws ValueError if cost is not a matrix.
/// Source: whisper/timing.py dtw_cpu.
TORCHWHISPER_API at::Tensor dtw(const at::Tensor& cost, common::Control& control);

/// Follows the moves from the last cell to the first.
///
/// trace: int8 [tokens + 1, frames + 1] of Move; what its first row and column hold is not looked at.
/// Returns int64 [2, length] as dtw(). Throws ValueError on a value that is no Move.
/// Source: whisper/timing.py backtrace.
TORCHWHISPER_API at::Tensor backtrace(const at::Tensor& trace);

}  // namespace torchwhisper::timing
