#include "csrc/kernels/implementation/implementation.h"
#include "csrc/kernels/implementation/vectors.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512BF16__)

namespace {

// The lanes of 16 numbers from `i` on of which `n` are there.
inline __mmask16 lanes_left(std::int64_t i, std::int64_t n) {
  const std::int64_t left = n - i;
  return static_cast<__mmask16>(left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1 << left) - 1);
}

inline void store_short(std::uint16_t* to, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
}

// 2^t for t <= 0 to 5e-5 of itself: t = n + r with |r| <= 1/2.
inline __m512 power_of_two(__m512 t) {
  const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = t - n;
  __m512 series = _mm512_set1_ps(0.0096181F);
  series = series * r + 0.0555041F;
  series = series * r + 0.2402265F;
  series = series * r + std::numbers::ln2_v<float>;
  series = series * r + 1.0F;
  return _mm512_scalef_ps(series, n);
}

}  // namespace

void shorten_row(const float* x, std::int64_t n, std::int64_t words, std::uint32_t* shortened) {
  auto* to = reinterpret_cast<std::uint16_t*>(shortened);
  for (std::int64_t i = 0; i < 2 * words; i += 16) {
    store_short(to + i, _mm512_maskz_loadu_ps(lanes_left(i, n), x + i));
  }
}

float shorten_exponentials(const float* x, std::int64_t n, float scale, std::int64_t words,
                           std::uint32_t* shortened) {
  auto* to = reinterpret_cast<std::uint16_t*>(shortened);
  const float factor = scale * std::numbers::log2e_v<float>;
  const float largest = maximum(x, n);
  __m512 sums = _mm512_setzero_ps();
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 value = power_of_two((_mm512_loadu_ps(x + i) - largest) * factor);
    sums += value;
    store_short(to + i, value);
  }
  for (; i < 2 * words; i += 16) {
    const __mmask16 some = lanes_left(i, n);
    const __m512 value = power_of_two((_mm512_maskz_loadu_ps(some, x + i) - largest) * factor);
    const __m512 counted = _mm512_maskz_mov_ps(some, value);
    sums += counted;
    store_short(to + i, counted);
  }
  return _mm512_reduce_add_ps(sums);
}

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
