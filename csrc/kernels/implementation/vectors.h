#pragma once

// Vectors of numbers as wide as the instruction set has them. It must not call inline functions of other
// headers: the linker keeps one copy of each, which might be the one that only the newest processors can run.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <numbers>

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512F__)
inline constexpr std::int64_t kLanes = 16;
#elif defined(__AVX2__)
inline constexpr std::int64_t kLanes = 8;
#else
inline constexpr std::int64_t kLanes = 4;
#endif

using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Ints = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));
using Bytes = std::int8_t __attribute__((vector_size(kLanes)));

inline Floats load(const float* from) {
  Floats value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

// Spelled out where the compiler would take the bytes apart one by one.
inline Floats load(const std::int8_t* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(from)));
#else
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof(bytes));
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
#endif
}

// bfloat16: the upper half of a float32.
inline Floats load(const std::uint16_t* from) {
#if defined(__AVX512F__)
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
#elif defined(__AVX2__)
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 16));
#else
  std::uint32_t bits[kLanes];
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    bits[lane] = static_cast<std::uint32_t>(from[lane]) << 16U;
  }
  Floats value;
  __builtin_memcpy(&value, bits, sizeof(value));
  return value;
#endif
}

/// float16 as it lies in memory. Finite ones only: what is read here was found to be exactly that.
struct Half {
  std::uint16_t bits;
};

inline Floats load(const Half* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  // Exponent and digits moved to where float32 has them; the exponents are counted from 112 lower.
  std::uint32_t size[kLanes];
  std::uint32_t sign[kLanes];
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    size[lane] = (from[lane].bits & 0x7FFFU) << 13U;
    sign[lane] = (from[lane].bits & 0x8000U) << 16U;
  }
  Floats value;
  __builtin_memcpy(&value, size, sizeof(value));
  value *= 0x1p112F;
  Ints bits;
  Ints signs;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  __builtin_memcpy(&signs, sign, sizeof(signs));
  bits |= signs;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

inline void store(float* to, Floats value) { __builtin_memcpy(to, &value, sizeof(value)); }

inline Floats all(float value) { return value - Floats{}; }

// Spelled out where the compiler would compare first and choose then. `b` where one of them is NaN.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

inline Floats smaller(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

template <typename Combine>
inline float reduce(Floats value, Combine combine) {
  float result = value[0];
  for (std::int64_t i = 1; i < kLanes; ++i) {
    result = combine(result, value[i]);
  }
  return result;
}

inline float sum_of(Floats value) {
  return reduce(value, [](float a, float b) { return a + b; });
}

inline float maximum_of(Floats value) {
  return reduce(value, [](float a, float b) { return a > b ? a : b; });
}

// exp(x) for x <= 0 to about one unit in the last place; below the normal numbers it is 0. NaN stays NaN.
// x = n ln 2 + r with |r| <= ln(2) / 2, and exp(r) by its Taylor series.
inline Floats exp_of(Floats x) {
  constexpr float kLowest = -87.0F;
  constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats clamped = larger(all(kLowest), x);
  const Floats n = (clamped * std::numbers::log2e_v<float> + kRounder) - kRounder;
  // ln 2 in two parts, of which the first has few digits: its products are exact.
  constexpr float kLn2High = 0.693359375F;  // NOLINT(modernize-use-std-numbers)
  constexpr float kLn2Low = -2.12194440e-4F;
  const Floats r = (clamped - n * kLn2High) - n * kLn2Low;
  Floats series = all(1.0F / 5040.0F);
  series = series * r + 1.0F / 720.0F;
  series = series * r + 1.0F / 120.0F;
  series = series * r + 1.0F / 24.0F;
  series = series * r + 1.0F / 6.0F;
  series = series * r + 0.5F;
  series = series * r + 1.0F;
  series = series * r + 1.0F;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats factor;
  __builtin_memcpy(&factor, &power, sizeof(factor));
  return x <= kLowest ? Floats{} : series * factor;
}

// x * Phi(x) to 1e-4, for products whose inputs are rounded: Phi(x) - 1/2 is x times a polynomial of x * x,
// fitted to |x| <= 4.2.
inline Floats rough_gelu_of(Floats x) {
  const Floats bounded = smaller(larger(x, all(-4.2F)), all(4.2F));
  const Floats square = bounded * bounded;
  Floats series = all(4.923337432183317e-11F);
  series = series * square - 4.795286390191222e-9F;
  series = series * square + 2.0723544480460987e-7F;
  series = series * square - 5.289352429826977e-6F;
  series = series * square + 8.98338039405644e-5F;
  series = series * square - 0.0010864464566111565F;
  series = series * square + 0.009740899316966534F;
  series = series * square - 0.06622201204299927F;
  series = series * square + 0.39883455634117126F;
  return x * (series * bounded + 0.5F);
}

// x * Phi(x) with erf by formula 7.1.26 of Abramowitz and Stegun, to 1.5e-7.
inline Floats gelu_of(Floats x) {
  const Floats z = x * 0.70710678F;
  const Floats size = larger(z, -z);
  const Floats t = 1.0F / (1.0F + 0.3275911F * size);
  Floats series = all(1.061405429F);
  series = series * t - 1.453152027F;
  series = series * t + 1.421413741F;
  series = series * t - 0.284496736F;
  series = series * t + 0.254829592F;
  const Floats tail = series * t * exp_of(-size * size);  // 1 - erf(size)
  return 0.5F * x * (z < 0.0F ? tail : 2.0F - tail);
}

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
