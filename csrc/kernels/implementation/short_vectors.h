#pragma once

#include "csrc/kernels/implementation/vectors.h"

/// Vectors of bfloat16, for processors that multiply them.
namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512BF16__)

// The lanes of 16 numbers from `i` on of which `n` are there.
inline __mmask16 lanes_left(std::int64_t i, std::int64_t n) {
  const std::int64_t left = n - i;
  return static_cast<__mmask16>(left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1 << left) - 1);
}

inline void store_short(std::uint16_t* to, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
}

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
