// Compiled once for each instruction set, with TORCHWHISPER_ISA as the namespace. It must not call inline
// functions of other headers: the linker keeps one copy of each, which might be the one that only the newest
// processors can run.
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <numbers>

#include "csrc/kernels/table.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {
namespace {

#if defined(__AVX512F__)
constexpr std::int64_t kLanes = 16;
#elif defined(__AVX2__)
constexpr std::int64_t kLanes = 8;
#else
constexpr std::int64_t kLanes = 4;
#endif
constexpr std::int64_t kMostRows = 6;
// How far ahead of its use a weight is asked for: the processor's own prefetching starts anew in every page
// and for every panel.
constexpr int kAhead = 32;

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

inline void store(float* to, Floats value) { __builtin_memcpy(to, &value, sizeof(value)); }

inline Floats all(float value) { return value - Floats{}; }

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

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

// --- functions --------------------------------------------------------------------------------------------

// exp(x) for x <= 0 to about one unit in the last place; below the normal numbers it is 0.
// x = n ln 2 + r with |r| <= ln(2) / 2, and exp(r) by its Taylor series.
inline Floats exp_of(Floats x) {
  constexpr float kLowest = -87.0F;
  constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats clamped = larger(x, all(kLowest));
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
  return x > kLowest ? series * factor : Floats{};
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

// --- products ---------------------------------------------------------------------------------------------

// Sums of many numbers lose digits to their own size: every so many they are put aside.
constexpr std::int64_t kDepthAtOnce = 256;

// The sums of kRows rows and kVectors * kLanes columns stay in registers over kDepthAtOnce products.
template <int kRows, int kVectors, typename Weight>
inline void multiply_tile(const float* x, std::int64_t x_stride, std::int64_t depth, const Weight* panel,
                          float* sums) {
  for (std::int64_t begin = 0; begin < depth; begin += kDepthAtOnce) {
    const std::int64_t end = depth - begin < kDepthAtOnce ? depth : begin + kDepthAtOnce;
    Floats sum[kRows][kVectors] = {};
    for (std::int64_t k = begin; k < end; ++k) {
      Floats weight[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        weight[v] = load(panel + k * kPanelWidth + v * kLanes);
        __builtin_prefetch(panel + (k + kAhead) * kPanelWidth + v * kLanes);
      }
      for (int r = 0; r < kRows; ++r) {
        const Floats value = all(x[r * x_stride + k]);
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] += value * weight[v];
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        float* to = sums + r * kPanelWidth + v * kLanes;
        store(to, begin == 0 ? sum[r][v] : load(to) + sum[r][v]);
      }
    }
  }
}

// As many columns as leave registers for the weights: 32 vector registers with AVX-512, else 16.
constexpr int vectors_beside(int rows) {
  if (kLanes == 16) {
    return 4;
  }
  if (rows == 1) {
    return 8;
  }
  return rows <= 3 ? 4 : 2;
}

template <int kRows, typename Weight>
void multiply_rows(const float* x, std::int64_t x_stride, std::int64_t depth, const Weight* panel,
                   float* sums) {
  constexpr int kVectors = vectors_beside(kRows);
  for (std::int64_t column = 0; column < kPanelWidth; column += kVectors * kLanes) {
    multiply_tile<kRows, kVectors>(x, x_stride, depth, panel + column, sums + column);
  }
}

template <typename Weight>
void multiply_few_rows(std::int64_t rows, const float* x, std::int64_t x_stride, std::int64_t depth,
                       const Weight* panel, float* sums) {
  switch (rows) {
    case 1:
      return multiply_rows<1>(x, x_stride, depth, panel, sums);
    case 2:
      return multiply_rows<2>(x, x_stride, depth, panel, sums);
    case 3:
      return multiply_rows<3>(x, x_stride, depth, panel, sums);
    case 4:
      return multiply_rows<4>(x, x_stride, depth, panel, sums);
    case 5:
      return multiply_rows<5>(x, x_stride, depth, panel, sums);
    default:
      return multiply_rows<kMostRows>(x, x_stride, depth, panel, sums);
  }
}

// What the last panel lacks is made up with zeros, so that every row is a whole number of vectors.
struct Columns {
  alignas(64) float values[kPanelWidth];

  Columns(const float* from, std::int64_t columns) {
    for (std::int64_t c = 0; c < kPanelWidth; ++c) {
      values[c] = from != nullptr && c < columns ? from[c] : 0.0F;
    }
  }
};

void finish_row(const float* sums, const PanelProduct& p, const float* scale, const float* bias,
                std::int64_t row) {
  alignas(64) float result[kPanelWidth];
  for (std::int64_t c = 0; c < kPanelWidth; c += kLanes) {
    Floats value = load(sums + c);
    if (scale != nullptr) {
      value *= load(scale + c);
    }
    value += load(bias + c);
    store(result + c, p.epilogue.gelu ? gelu_of(value) : value);
  }
  float* y = p.y + row * p.y_stride;
  if (p.epilogue.residual != nullptr) {
    const float* residual = p.epilogue.residual + row * p.y_stride;
    for (std::int64_t c = 0; c < p.columns; ++c) {
      y[c] = result[c] + residual[c];
    }
    return;
  }
  __builtin_memcpy(y, result, static_cast<unsigned long>(p.columns) * sizeof(float));
}

template <typename Weight>
void multiply_panel(const PanelProduct& p, const Weight* panel, const float* scale) {
  const Columns bias(p.epilogue.bias, p.columns);
  const Columns scales(scale, p.columns);
  for (std::int64_t row = 0; row < p.rows; row += kMostRows) {
    const std::int64_t rows = p.rows - row < kMostRows ? p.rows - row : kMostRows;
    alignas(64) float sums[kMostRows * kPanelWidth];
    multiply_few_rows(rows, p.x + row * p.x_stride, p.x_stride, p.depth, panel, sums);
    for (std::int64_t r = 0; r < rows; ++r) {
      finish_row(sums + r * kPanelWidth, p, scale == nullptr ? nullptr : scales.values, bias.values, row + r);
    }
  }
}

void multiply(const PanelProduct& product, const float* panel) { multiply_panel(product, panel, nullptr); }

void multiply_int8(const PanelProduct& product, const std::int8_t* panel, const float* scale) {
  multiply_panel(product, panel, scale);
}

float dot(const float* x, const float* y, std::int64_t n) {
  Floats first = {};
  Floats second = {};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    first += load(x + i) * load(y + i);
    second += load(x + i + kLanes) * load(y + i + kLanes);
  }
  float sum = sum_of(first + second);
  for (; i < n; ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

// --- rows of numbers --------------------------------------------------------------------------------------

// exp() of the numbers from `i` on, of which `n - i` are left; the lanes beyond give 0.
inline Floats exp_of_rest(const float* x, std::int64_t i, std::int64_t n, float shift, float scale) {
  float rest[kLanes];
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    rest[lane] = i + lane < n ? (x[i + lane] - shift) * scale : -1000.0F;
  }
  return exp_of(load(rest));
}

float maximum(const float* x, std::int64_t n) {
  float best = x[0];
  std::int64_t i = 0;
  if (n >= 2 * kLanes) {
    Floats first = load(x);
    Floats second = load(x + kLanes);
    for (i = 2 * kLanes; i + 2 * kLanes <= n; i += 2 * kLanes) {
      first = larger(first, load(x + i));
      second = larger(second, load(x + i + kLanes));
    }
    best = maximum_of(larger(first, second));
  }
  for (; i < n; ++i) {
    best = x[i] > best ? x[i] : best;
  }
  return best;
}

float log_sum_exp(const float* x, std::int64_t n) {
  // Several sums, so that each stays small beside what is added to it.
  constexpr std::int64_t kSums = 8;
  const float largest = maximum(x, n);
  Floats sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
    for (std::int64_t s = 0; s < kSums; ++s) {
      sums[s] += exp_of(load(x + i + s * kLanes) - largest);
    }
  }
  for (; i < n; i += kLanes) {
    sums[0] += exp_of_rest(x, i, n, largest, 1.0F);
  }
  Floats total = {};
  for (const Floats& sum : sums) {
    total += sum;
  }
  return largest + __builtin_logf(sum_of(total));
}

float exponentials(float* x, std::int64_t n, float scale) {
  const float largest = maximum(x, n);
  Floats sums = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats value = exp_of((load(x + i) - largest) * scale);
    store(x + i, value);
    sums += value;
  }
  if (i < n) {
    const Floats value = exp_of_rest(x, i, n, largest, scale);
    for (std::int64_t lane = 0; i + lane < n; ++lane) {
      x[i + lane] = value[lane];
    }
    sums += value;
  }
  return sum_of(sums);
}

// Two passes, so that the variance keeps its digits where the mean is large.
void layer_norm(const float* x, std::int64_t n, const float* weight, const float* bias, float epsilon,
                float* y) {
  Floats sums = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    sums += load(x + i);
  }
  float sum = sum_of(sums);
  for (std::int64_t j = i; j < n; ++j) {
    sum += x[j];
  }
  const float mean = sum / static_cast<float>(n);
  Floats squares = {};
  for (std::int64_t j = 0; j < i; j += kLanes) {
    const Floats distance = load(x + j) - mean;
    squares += distance * distance;
  }
  float square = sum_of(squares);
  for (std::int64_t j = i; j < n; ++j) {
    square += (x[j] - mean) * (x[j] - mean);
  }
  const float factor = 1.0F / __builtin_sqrtf(square / static_cast<float>(n) + epsilon);
  for (std::int64_t j = 0; j < n; ++j) {
    y[j] = (x[j] - mean) * factor * weight[j] + bias[j];
  }
}

}  // namespace

extern const KernelTable table;
const KernelTable table{multiply, multiply_int8, dot, maximum, log_sum_exp, exponentials, layer_norm};

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
