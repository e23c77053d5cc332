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

void split_row(const float* x, std::int64_t n, std::int64_t words, std::int64_t part, std::uint32_t* parts) {
  for (std::int64_t i = 0; i < 2 * words; i += 16) {
    __m512 rest = _mm512_maskz_loadu_ps(lanes_left(i, n), x + i);
    for (std::int64_t j = 0; j < kPartsOfRows; ++j) {
      const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(rest));
      auto* to = reinterpret_cast<std::uint16_t*>(parts + j * part) + i;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
      rest -= _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
  }
}

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
