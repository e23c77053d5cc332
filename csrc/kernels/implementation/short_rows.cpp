#include "csrc/kernels/implementation/implementation.h"
#include "csrc/kernels/implementation/short_vectors.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512BF16__)

void shorten_row(const float* x, std::int64_t n, std::int64_t words, std::uint32_t* shortened) {
  auto* to = reinterpret_cast<std::uint16_t*>(shortened);
  for (std::int64_t i = 0; i < 2 * words; i += 16) {
    store_short(to + i, _mm512_maskz_loadu_ps(lanes_left(i, n), x + i));
  }
}

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
