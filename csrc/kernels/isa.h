#pragma once

#include "csrc/common/api.h"

namespace torchwhisper::kernels {

/// The instruction sets that the kernels are compiled for, each including those before it.
enum class Isa { kBaseline, kAvx2, kAvx512 };

/// The best one that this processor and the environment allow. ONEDNN_MAX_CPU_ISA, the variable that limits
/// oneDNN's kernels, limits these too; it is read once.
TORCHWHISPER_API Isa best_isa();

}  // namespace torchwhisper::kernels
