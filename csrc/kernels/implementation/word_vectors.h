#pragma once

#include "csrc/kernels/implementation/vectors.h"

/// Products of words (kernels/table.h) as wide as the instruction set has them, for word_products.cpp.
namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512VNNI__)
inline constexpr std::int64_t kWordLanes = 16;
#elif defined(__AVX2__)
inline constexpr std::int64_t kWordLanes = 8;
#else
inline constexpr std::int64_t kWordLanes = 4;
#endif

// Where the processor multiplies unsigned numbers by signed ones, 128 is added to x and what that adds to
// the sums is taken away in the end.
#if (defined(__AVX512VNNI__) || defined(__AVXVNNI__)) && !defined(__AMX_INT8__)
inline constexpr bool kUnsignedRows = true;
#else
inline constexpr bool kUnsignedRows = false;
#endif

#if defined(__AVX512VNNI__)
using WordVector = __m512i;
inline WordVector load_words(const std::uint32_t* from) { return _mm512_loadu_si512(from); }
#elif defined(__AVX2__)
using WordVector = __m256i;
inline WordVector load_words(const std::uint32_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
#else
struct WordVector {
  std::uint32_t words[kWordLanes];
};
inline WordVector load_words(const std::uint32_t* from) {
  WordVector value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}
#endif

/// Four int8 in a word.
struct Int8Words {
  static constexpr bool kInteger = true;
  static constexpr bool kInParts = false;
  using Number = std::int32_t;
#if defined(__AVX512VNNI__)
  using Sum = __m512i;
  using Spread = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  static Spread spread(std::uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static Sum add(Sum sum, Spread x, WordVector weight) { return _mm512_dpbusd_epi32(sum, x, weight); }
#elif defined(__AVXVNNI__)
  using Sum = __m256i;
  using Spread = __m256i;
  static Sum zero() { return _mm256_setzero_si256(); }
  static Spread spread(std::uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
  static Sum add(Sum sum, Spread x, WordVector weight) { return _mm256_dpbusd_avx_epi32(sum, x, weight); }
#elif defined(__AVX2__)
  using Sum = __m256i;
  struct Spread {
    __m256i value;
    __m256i size;
  };
  static Sum zero() { return _mm256_setzero_si256(); }
  static Spread spread(std::uint32_t word) {
    const __m256i value = _mm256_set1_epi32(static_cast<int>(word));
    return {value, _mm256_abs_epi8(value)};
  }
  // x * w = |x| * (w with the sign of x). Two products are at most 2 * 127 * 127, which 16 bits hold.
  static Sum add(Sum sum, Spread x, WordVector weight) {
    const __m256i pairs = _mm256_maddubs_epi16(x.size, _mm256_sign_epi8(weight, x.value));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
#else
  struct Sum {
    std::int32_t values[kWordLanes];
  };
  struct Spread {
    std::int8_t values[4];
  };
  static Sum zero() { return {}; }
  static Spread spread(std::uint32_t word) {
    Spread x;
    __builtin_memcpy(&x, &word, sizeof(x));
    return x;
  }
  static Sum add(Sum sum, Spread x, const WordVector& weight) {
    std::int8_t weights[kWordLanes][4];
    __builtin_memcpy(weights, &weight, sizeof(weights));
    for (std::int64_t lane = 0; lane < kWordLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        sum.values[lane] += x.values[i] * weights[lane][i];
      }
    }
    return sum;
  }
#endif
};

#if defined(__AVX512BF16__)
/// Two bfloat16 in a word.
struct Bfloat16Words {
  static constexpr bool kInteger = false;
  static constexpr bool kInParts = false;
  using Number = float;
  using Sum = __m512;
  using Spread = __m512i;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Spread spread(std::uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static Sum add(Sum sum, Spread x, WordVector weight) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(weight));
  }
};

/// Two bfloat16 in a word, which are parts of float32.
struct PartWords : Bfloat16Words {
  static constexpr bool kInParts = true;
};
#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
