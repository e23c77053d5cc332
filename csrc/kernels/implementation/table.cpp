#include "csrc/kernels/implementation/implementation.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512BF16__)
constexpr bool kHasBfloat16 = true;
#else
constexpr bool kHasBfloat16 = false;
#endif

extern const KernelTable table;
const KernelTable table{multiply,
                        multiply_bfloat16,
                        multiply_int8,
                        round_row,
                        multiply_rounded,
                        kHasBfloat16 ? shorten_row : nullptr,
                        kHasBfloat16 ? multiply_shortened : nullptr,
                        kHasBfloat16 ? attend_shortened : nullptr,
                        dot,
                        maximum,
                        log_sum_exp,
                        exponentials,
                        layer_norm};

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
