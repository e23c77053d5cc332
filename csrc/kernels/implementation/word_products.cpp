#include "csrc/kernels/implementation/epilogue.h"
#include "csrc/kernels/implementation/implementation.h"
#include "csrc/kernels/implementation/tiles.h"
#include "csrc/kernels/implementation/word_vectors.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {
namespace {

// --- rows of x --------------------------------------------------------------------------------------------

// The largest magnitude. Compared as integers, among which what is not a number is the largest.
inline float size_of(const float* x, std::int64_t n) {
  Ints largest = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Ints bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  std::int32_t best = 0;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    best = largest[lane] > best ? largest[lane] : best;
  }
  for (; i < n; ++i) {
    std::int32_t bits = 0;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    bits &= 0x7FFFFFFF;
    best = bits > best ? bits : best;
  }
  float size = 0.0F;
  __builtin_memcpy(&size, &best, sizeof(size));
  return size;
}

// To the nearest, halves to even, without the fused arithmetic that would make it depend on the processor.
inline std::int32_t nearest(float x) {
#if defined(__SSE2__)
  return _mm_cvtss_si32(_mm_set_ss(x));
#else
  return static_cast<std::int32_t>(__builtin_nearbyintf(x));
#endif
}

// kLanes numbers, each -127 to 127.
inline void round_vector(const float* x, float factor, std::int8_t* to) {
#if defined(__AVX512F__)
  const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(factor)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(rounded));
#elif defined(__AVX2__)
  const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(factor)));
  const __m128i halves =
      _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  _mm_storeu_si64(to, _mm_packs_epi16(halves, halves));
#else
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    to[lane] = static_cast<std::int8_t>(nearest(x[lane] * factor));
  }
#endif
}

// --- products ---------------------------------------------------------------------------------------------

/// Brings the sums of rows into y.
template <typename Words>
class Finish {
 public:
  explicit Finish(const WordProduct& p) : p_(p), bias_(p.out.epilogue.bias, p.out.columns) {}

  void operator()(Words::Number* sums, std::int64_t row, std::int64_t rows) const {
    for (std::int64_t r = 0; r < rows; ++r, sums += kPanelWidth) {
      one(sums, row + r);
    }
  }

  void one(Words::Number* sums, std::int64_t row) const {
    if constexpr (Words::kInteger) {
      if constexpr (kUnsignedRows) {
        for (std::int64_t c = 0; c < kPanelWidth; ++c) {
          sums[c] -= 128 * p_.column_sums[c];
        }
      }
      finish_row<true>(sums, p_.out, p_.row_scale[row], p_.column_scale, bias_.values, row);
    } else {
      finish_row<!Words::kInParts>(sums, p_.out, 1.0F, nullptr, bias_.values, row);
    }
  }

 private:
  const WordProduct& p_;
  Columns bias_;
};

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)

constexpr std::int64_t kRowsOfSquare = 2 * kTileRows;

/// Asks for what finishing a square of rows from `row` on touches, which may be in no cache.
inline void ask_for_square(const Output& out, std::int64_t row) {
  constexpr std::int64_t kCacheLine = 16;  // numbers
  for (std::int64_t r = row; r < row + kRowsOfSquare; ++r) {
    for (std::int64_t c = 0; c < out.columns; c += kCacheLine) {
      __builtin_prefetch(out.y + r * out.y_stride + c, /*rw=*/1);
      if (out.epilogue.residual != nullptr) {
        __builtin_prefetch(out.epilogue.residual + r * out.y_stride + c);
      }
    }
  }
}

/// Rows whose sums are there, finished a few at a time while the tiles compute the next.
template <typename Words>
class Unfinished {
 public:
  /// `steps`: how often it will be called before the next sums are there.
  Unfinished(const WordProduct& p, const Finish<Words>& finish, std::int64_t steps)
      : p_(p), finish_(finish), at_once_((kRowsOfSquare + steps - 1) / steps) {}

  void add(Words::Number* sums, std::int64_t row) {
    sums_ = sums;
    row_ = row;
    left_ = kRowsOfSquare;
  }

  void operator()() {
    for (std::int64_t i = 0; i < at_once_ && left_ > 0; ++i) {
      next();
    }
  }

  void all() {
    while (left_ > 0) {
      next();
    }
  }

 private:
  void next() {
    finish_.one(sums_, row_);
    sums_ += kPanelWidth;
    ++row_;
    --left_;
  }

  const WordProduct& p_;
  const Finish<Words>& finish_;
  std::int64_t at_once_;
  Words::Number* sums_ = nullptr;
  std::int64_t row_ = 0;
  std::int64_t left_ = 0;
};

/// The rows that fill whole squares; returns how many.
template <typename Words>
std::int64_t multiply_squares(const WordProduct& p, const Finish<Words>& finish) {
  alignas(64) typename Words::Number sums[2][kRowsOfSquare * kPanelWidth];
  Unfinished<Words> last(p, finish, 2 * p.words / kWordsTogether);
  std::int64_t row = 0;
  for (; row + kRowsOfSquare <= p.rows; row += kRowsOfSquare) {
    typename Words::Number* these = sums[row / kRowsOfSquare % 2];
    ask_for_square(p.out, row);
    multiply_square<Words>(p, row, 0, these, last);
    multiply_square<Words>(p, row, kPanelWidth / 2, these, last);
    last.all();
    last.add(these, row);
  }
  last.all();
  return row;
}

template <typename Words>
void multiply_panel(const WordProduct& p) {
  const Finish<Words> finish(p);
  if (p.rows >= kTileRows) {
    shape_tiles(kTileRows);
  }
  std::int64_t row = multiply_squares(p, finish);
  alignas(64) typename Words::Number sums[kTileRows * kPanelWidth];
  for (; row < p.rows; row += kTileRows) {
    const std::int64_t rows = p.rows - row < kTileRows ? p.rows - row : kTileRows;
    if (rows < kTileRows) {
      shape_tiles(rows);
    }
    multiply_line<Words>(p, row, sums);
    finish(sums, row, rows);
  }
  _tile_release();
}

#else

constexpr std::int64_t kMostRows = 6;
constexpr int kAhead = 16;  // words ahead of their use that weights are asked for

template <typename Words, int kRows, int kVectors>
inline void multiply_block(const std::uint32_t* x, std::int64_t x_stride, std::int64_t words,
                           const std::uint32_t* panel, typename Words::Number* sums) {
  typename Words::Sum sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = Words::zero();
    }
  }
  for (std::int64_t w = 0; w < words; ++w) {
    WordVector weight[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      weight[v] = load_words(panel + w * kPanelWidth + v * kWordLanes);
      __builtin_prefetch(panel + (w + kAhead) * kPanelWidth + v * kWordLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const auto value = Words::spread(x[r * x_stride + w]);
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = Words::add(sum[r][v], value, weight[v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      __builtin_memcpy(sums + r * kPanelWidth + v * kWordLanes, &sum[r][v], sizeof(sum[r][v]));
    }
  }
}

// As many columns as leave registers for the weights: 32 vector registers with AVX-512, else 16.
constexpr int vectors_beside(int rows) {
  if (kWordLanes == 16) {
    return 4;
  }
  if (rows == 1) {
    return 8;
  }
  return rows <= 3 ? 4 : 2;
}

template <typename Words, int kRows>
void multiply_rows(const WordProduct& p, std::int64_t row, typename Words::Number* sums) {
  constexpr int kVectors = vectors_beside(kRows);
  for (std::int64_t column = 0; column < kPanelWidth; column += kVectors * kWordLanes) {
    multiply_block<Words, kRows, kVectors>(p.x + row * p.x_stride, p.x_stride, p.words, p.panel + column,
                                           sums + column);
  }
}

template <typename Words>
void multiply_few_rows(const WordProduct& p, std::int64_t row, std::int64_t rows,
                       typename Words::Number* sums) {
  switch (rows) {
    case 1:
      return multiply_rows<Words, 1>(p, row, sums);
    case 2:
      return multiply_rows<Words, 2>(p, row, sums);
    case 3:
      return multiply_rows<Words, 3>(p, row, sums);
    case 4:
      return multiply_rows<Words, 4>(p, row, sums);
    case 5:
      return multiply_rows<Words, 5>(p, row, sums);
    default:
      return multiply_rows<Words, kMostRows>(p, row, sums);
  }
}

template <typename Words>
void multiply_panel(const WordProduct& p) {
  const Finish<Words> finish(p);
  for (std::int64_t row = 0; row < p.rows; row += kMostRows) {
    const std::int64_t rows = p.rows - row < kMostRows ? p.rows - row : kMostRows;
    alignas(64) typename Words::Number sums[kMostRows * kPanelWidth];
    multiply_few_rows<Words>(p, row, rows, sums);
    finish(sums, row, rows);
  }
}

#endif

}  // namespace

float round_row(const float* x, std::int64_t n, std::int64_t words, std::uint32_t* rounded) {
  const float size = size_of(x, n);
  const float factor = size > 0.0F ? 127.0F / size : 0.0F;
  auto* to = reinterpret_cast<std::int8_t*>(rounded);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    round_vector(x + i, factor, to + i);
  }
  for (; i < n; ++i) {
    to[i] = static_cast<std::int8_t>(nearest(x[i] * factor));
  }
  for (; i < 4 * words; ++i) {
    to[i] = 0;
  }
  if (kUnsignedRows) {
    for (std::int64_t w = 0; w < words; ++w) {
      rounded[w] ^= 0x80808080U;
    }
  }
  return size / 127.0F;
}

void multiply_rounded(const WordProduct& product) { multiply_panel<Int8Words>(product); }

#if defined(__AVX512BF16__)

void multiply_shortened(const WordProduct& product) { multiply_panel<Bfloat16Words>(product); }

#endif

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)

void multiply_parts(const WordProduct& product) { multiply_panel<PartWords>(product); }

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
