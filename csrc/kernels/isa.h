#pragma once

#include "csrc/common/api.h"

namespace torchwhisper::kernels {

/// The instruction sets that the kernels are compiled for, from the poorest to the richest. Each includes
/// those before it, but for kAvx2Vnni, which processors with AVX-512 may lack.
enum class Isa { kBaseline, kAvx2, kAvx2Vnni, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };

/// Whether this processor has it and the environment allows it. ONEDNN_MAX_CPU_ISA, the variable that limits
/// oneDNN's kernels, limits these too; it is read once.
TORCHWHISPER_API bool has_isa(Isa isa);

/// The richest one that has_isa() grants.
TORCHWHISPER_API Isa best_isa();

}  // namespace torchwhisper::kernels
