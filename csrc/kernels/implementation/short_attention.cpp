#include "csrc/kernels/implementation/implementation.h"
#include "csrc/kernels/implementation/short_vectors.h"
#include "csrc/kernels/implementation/tiles.h"
#include "csrc/kernels/implementation/vectors.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AVX512BF16__)

namespace {

constexpr std::int64_t kQueries = kShortQueries;
constexpr std::int64_t kKeysOfTile = 16;
constexpr std::int64_t kKeysTogether = 2 * kWordsTogether;
// Scores lie in squares: [key / kKeysOfTile][kQueries][kKeysOfTile].
constexpr std::int64_t kSquare = kQueries * kKeysOfTile;
/// A vector for each query.
struct QueryVectors {
  __m512 of[kQueries];

  explicit QueryVectors(float value) {
    for (__m512& one : of) {
      one = _mm512_set1_ps(value);
    }
  }
};

/// What is computed on the way. The weights of a query are [time_words], but where tiles take them: there
/// they lie in squares, [word / kWordsTogether][kQueries][kWordsTogether].
struct Scratch {
  alignas(64) std::uint32_t queries[kQueries * kPanelWidth / 2];
  QueryVectors largest{-__builtin_inff()};
  QueryVectors sums{0.0F};
  float* scores;
  std::uint32_t* weights;

  explicit Scratch(const ShortAttention& a)
      : scores(a.scratch),
        weights(reinterpret_cast<std::uint32_t*>(a.scratch + 2 * a.time_words * kQueries)) {
    __builtin_memset(queries, 0, sizeof(queries));
    for (std::int64_t row = 0; row < a.rows; ++row) {
      shorten_row(a.q + row * a.q_stride, a.dim, a.dim_words, queries + row * a.dim_words);
    }
  }
};

// --- scores -----------------------------------------------------------------------------------------------

/// Takes two squares of scores into the largest ones.
inline void look_for_largest(const float* squares, QueryVectors& largest) {
  for (std::int64_t row = 0; row < kQueries; ++row) {
    const __m512 first = _mm512_load_ps(squares + row * kKeysOfTile);
    const __m512 second = _mm512_load_ps(squares + kSquare + row * kKeysOfTile);
    largest.of[row] = _mm512_max_ps(_mm512_max_ps(first, second), largest.of[row]);
  }
}

/// What the last squares have beyond the keys that are there weighs nothing.
inline void discard_beyond(const ShortAttention& a, float* scores) {
  for (std::int64_t key = a.time / kKeysOfTile * kKeysOfTile; key < 2 * a.time_words; key += kKeysOfTile) {
    const __mmask16 beyond = static_cast<__mmask16>(~lanes_left(key, a.time));
    float* square = scores + key * kQueries;
    for (std::int64_t row = 0; row < kQueries; ++row) {
      _mm512_mask_store_ps(square + row * kKeysOfTile, beyond, _mm512_set1_ps(-__builtin_inff()));
    }
  }
}

#if defined(__AMX_BF16__)

/// Two squares of scores by the queries that lie in tiles 4 to 7.
template <int kSteps>
inline void score_squares(const std::uint32_t* keys, float* squares) {
  constexpr int kPanelBytes = kPanelWidth * 4;
  for (int square = 0; square < 2; ++square) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(2, keys, kPanelBytes);
    _tile_dpbf16ps(0, 4, 2);
    _tile_dpbf16ps(1, 6, 2);
    if constexpr (kSteps == 2) {
      _tile_loadd(3, keys + kWordsTogether * kPanelWidth, kPanelBytes);
      _tile_dpbf16ps(0, 5, 3);
      _tile_dpbf16ps(1, 7, 3);
    }
    _tile_stored(0, squares, 64);
    _tile_stored(1, squares + kSquare / 2, 64);
    keys += kKeysOfTile;
    squares += kSquare;
  }
}

template <int kSteps>
void score(const ShortAttention& a, Scratch& scratch) {
  const auto bytes = static_cast<int>(a.dim_words * 4);
  const std::uint32_t* lower = scratch.queries + kTileRows * a.dim_words;
  _tile_loadd(4, scratch.queries, bytes);
  _tile_loadd(6, lower, bytes);
  if constexpr (kSteps == 2) {
    _tile_loadd(5, scratch.queries + kWordsTogether, bytes);
    _tile_loadd(7, lower + kWordsTogether, bytes);
  }
  // One step behind, when the tiles have been stored.
  for (std::int64_t key = 0; key < 2 * a.time_words; key += kKeysTogether) {
    score_squares<kSteps>(a.keys + key / kPanelWidth * kPanelWidth * a.dim_words + key % kPanelWidth,
                          scratch.scores + key * kQueries);
    if (key > 0) {
      look_for_largest(scratch.scores + (key - kKeysTogether) * kQueries, scratch.largest);
    }
  }
  discard_beyond(a, scratch.scores);
  look_for_largest(scratch.scores + (2 * a.time_words - kKeysTogether) * kQueries, scratch.largest);
}

#else

void score(const ShortAttention& a, Scratch& scratch) {
  alignas(64) float panel[kQueries * kPanelWidth];
  for (std::int64_t key = 0; key < 2 * a.time_words; key += kPanelWidth) {
    multiply_shortened({scratch.queries,
                        a.dim_words,
                        kQueries,
                        a.dim_words,
                        a.keys + key * a.dim_words,
                        nullptr,
                        nullptr,
                        nullptr,
                        {panel, kPanelWidth, kPanelWidth}});
    // The last panel may be half empty.
    const std::int64_t left = 2 * a.time_words - key;
    for (std::int64_t c = 0; c < kPanelWidth && c < left; c += kKeysOfTile) {
      for (std::int64_t row = 0; row < kQueries; ++row) {
        _mm512_store_ps(scratch.scores + (key + c) * kQueries + row * kKeysOfTile,
                        _mm512_load_ps(panel + row * kPanelWidth + c));
      }
    }
  }
  discard_beyond(a, scratch.scores);
  for (std::int64_t key = 0; key < 2 * a.time_words; key += kKeysTogether) {
    look_for_largest(scratch.scores + key * kQueries, scratch.largest);
  }
}

#endif

// --- exponentials -----------------------------------------------------------------------------------------

#if defined(__AVX512VBMI__)

// The bits of a bfloat16 are its logarithm to base 2 in units of 1/128, plus those of 1.0, less what a
// straight line from 1 to 2 lies above 2^(i / 128): this.
struct Excess {
  std::uint8_t of[128] = {};

  constexpr Excess() {
    double power = 1.0;
    for (int i = 0; i < 128; ++i, power *= 1.0054299011128027) {
      const auto halves = static_cast<int>(2.0 * (i - 128.0 * (power - 1.0)));
      of[i] = static_cast<std::uint8_t>((halves + 1) / 2);
    }
  }
};
alignas(64) constexpr Excess kExcess;
constexpr float kUnit = 128.0F;
constexpr float kOne = 127.0F * 128.0F;

/// The words of 2^t of 32 scores, t = score * factor + shift in units of 1/128.
inline __m512i powers_of_two(__m512 first, __m512 second, __m512 factor, __m512 shift) {
  const __m512i low = _mm512_cvtps_epi32(_mm512_fmadd_ps(first, factor, shift));
  const __m512i high = _mm512_cvtps_epi32(_mm512_fmadd_ps(second, factor, shift));
  // What is too small to be told from zero becomes zero.
  const __m512i packed = _mm512_packus_epi32(low, high);
  const __m512i bits = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed);
  const __m512i excess = _mm512_maskz_permutex2var_epi8(0x5555555555555555U, _mm512_load_si512(kExcess.of),
                                                        bits, _mm512_load_si512(kExcess.of + 64));
  return _mm512_sub_epi16(bits, excess);
}

#else

constexpr float kUnit = 1.0F;
constexpr float kOne = 0.0F;

// 2^t for t <= 0 to 5e-5 of itself: t = n + r with |r| <= 1/2. Of minus infinity scalef() makes 0.
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

/// The words of 2^t of 32 scores, t = score * factor + shift.
inline __m512i powers_of_two(__m512 first, __m512 second, __m512 factor, __m512 shift) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(power_of_two(_mm512_fmadd_ps(second, factor, shift)),
                                                       power_of_two(_mm512_fmadd_ps(first, factor, shift))));
}

#endif

/// exp(scale * (score - largest)), the largest being 1.
struct Powers {
  __m512 factor;
  float shift[kQueries];

  Powers(const ShortAttention& a, const QueryVectors& largest) {
    const float each = a.scale * std::numbers::log2e_v<float> * kUnit;
    factor = _mm512_set1_ps(each);
    for (std::int64_t row = 0; row < kQueries; ++row) {
      shift[row] = kOne - _mm512_reduce_max_ps(largest.of[row]) * each;
    }
  }
};

/// The weights of kKeysTogether keys from two squares of scores, with `stride` from one query to the next.
inline void weigh(const Powers& powers, const float* squares, std::uint32_t* weights, std::int64_t stride,
                  QueryVectors& sums) {
  const auto ones = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3F80));
  for (std::int64_t row = 0; row < kQueries; ++row) {
    const __m512i words = powers_of_two(_mm512_load_ps(squares + row * kKeysOfTile),
                                        _mm512_load_ps(squares + kSquare + row * kKeysOfTile), powers.factor,
                                        _mm512_set1_ps(powers.shift[row]));
    _mm512_store_si512(weights + row * stride, words);
    sums.of[row] = _mm512_dpbf16_ps(sums.of[row], reinterpret_cast<__m512bh>(words), ones);
  }
}

// --- values -----------------------------------------------------------------------------------------------

/// The sums of values [kQueries][kPanelWidth], divided by the sums of their weights.
inline void finish(const ShortAttention& a, const float* values, const QueryVectors& sums) {
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const __m512 factor = _mm512_set1_ps(1.0F / _mm512_reduce_add_ps(sums.of[row]));
    for (std::int64_t d = 0; d < a.dim; d += 16) {
      _mm512_mask_storeu_ps(a.y + row * a.y_stride + d, lanes_left(d, a.dim),
                            _mm512_mul_ps(_mm512_load_ps(values + row * kPanelWidth + d), factor));
    }
  }
}

#if defined(__AMX_BF16__)

inline void add_values(const std::uint32_t* weights, const std::uint32_t* values) {
  constexpr int kPanelBytes = kPanelWidth * 4;
  _tile_loadd(4, weights, 64);
  _tile_loadd(6, values, kPanelBytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, values + 16, kPanelBytes);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, weights + kTileRows * kWordsTogether, 64);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

inline void store_values(float* values) {
  constexpr int kPanelBytes = kPanelWidth * 4;
  _tile_stored(0, values, kPanelBytes);
  _tile_stored(1, values + 16, kPanelBytes);
  _tile_stored(2, values + kTileRows * kPanelWidth, kPanelBytes);
  _tile_stored(3, values + kTileRows * kPanelWidth + 16, kPanelBytes);
}

void attend_with(const ShortAttention& a, Scratch& scratch) {
  shape_tiles(kTileRows);
  if (a.dim_words == kWordsTogether) {
    score<1>(a, scratch);
  } else {
    score<2>(a, scratch);
  }
  const Powers powers(a, scratch.largest);
  alignas(64) float values[kQueries * kPanelWidth];
  // The tiles multiply while the next weights are computed.
  clear_sums();
  for (std::int64_t w = 0; w < a.time_words; w += kWordsTogether) {
    std::uint32_t* weights = scratch.weights + w * kQueries;
    weigh(powers, scratch.scores + 2 * w * kQueries, weights, kWordsTogether, scratch.sums);
    add_values(weights, a.values + w * kPanelWidth);
  }
  store_values(values);
  clear_sums();
  for (std::int64_t w = 0; w < a.time_words; w += kWordsTogether) {
    add_values(scratch.weights + w * kQueries, a.values + w * kPanelWidth + kPanelWidth / 2);
  }
  store_values(values + kPanelWidth / 2);
  finish(a, values, scratch.sums);
  _tile_release();
}

#else

void attend_with(const ShortAttention& a, Scratch& scratch) {
  score(a, scratch);
  const Powers powers(a, scratch.largest);
  for (std::int64_t w = 0; w < a.time_words; w += kWordsTogether) {
    weigh(powers, scratch.scores + 2 * w * kQueries, scratch.weights + w, a.time_words, scratch.sums);
  }
  alignas(64) float values[kQueries * kPanelWidth];
  multiply_shortened({scratch.weights,
                      a.time_words,
                      kQueries,
                      a.time_words,
                      a.values,
                      nullptr,
                      nullptr,
                      nullptr,
                      {values, kPanelWidth, kPanelWidth}});
  finish(a, values, scratch.sums);
}

#endif

}  // namespace

void attend_shortened(const ShortAttention& attention) {
  Scratch scratch(attention);
  attend_with(attention, scratch);
}

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
