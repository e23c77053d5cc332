#include "csrc/kernels/implementation/implementation.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512BF16__)
constexpr bool kHasBfloat16 = true;
#else
constexpr bool kHasBfloat16 = false;
#endif

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

extern const KernelTable table;
const KernelTable table{multiply,
                        multiply_half,
                        multiply_bfloat16,
                        multiply_int8,
                        round_row,
                        multiply_rounded,
                        kHasBfloat16 ? shorten_row : nullptr,
                        kHasBfloat16 ? multiply_shortened : nullptr,
                        kHasTiles ? split_row : nullptr,
                        kHasTiles ? multiply_parts : nullptr,
                        kHasBfloat16 ? attend_shortened : nullptr,
                        dot,
                        maximum,
                        log_sum_exp,
                        exponentials,
                        layer_norm};

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
