#include "csrc/kernels/implementation/epilogue.h"
#include "csrc/kernels/implementation/implementation.h"
#include "csrc/kernels/implementation/vectors.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {
namespace {

constexpr std::int64_t kMostRows = 6;
// How far ahead of its use a weight is asked for: the processor's own prefetching starts anew in every page
// and for every panel.
constexpr int kAhead = 32;
constexpr std::size_t kCacheLine = 64;

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
        if (v * kLanes * sizeof(Weight) % kCacheLine == 0) {
          __builtin_prefetch(panel + (k + kAhead) * kPanelWidth + v * kLanes);
        }
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

template <typename Weight>
void multiply_panel(const PanelProduct& p, const Weight* panel, const float* scale) {
  const Output out{p.y, p.y_stride, p.columns, p.epilogue};
  const Columns bias(p.epilogue.bias, p.columns);
  const Columns scales(scale, p.columns);
  for (std::int64_t row = 0; row < p.rows; row += kMostRows) {
    const std::int64_t rows = p.rows - row < kMostRows ? p.rows - row : kMostRows;
    alignas(64) float sums[kMostRows * kPanelWidth];
    multiply_few_rows(rows, p.x + row * p.x_stride, p.x_stride, p.depth, panel, sums);
    for (std::int64_t r = 0; r < rows; ++r) {
      finish_row<false>(sums + r * kPanelWidth, out, 1.0F, scale == nullptr ? nullptr : scales.values,
                        bias.values, row + r);
    }
  }
}

}  // namespace

void multiply(const PanelProduct& product, const float* panel) { multiply_panel(product, panel, nullptr); }

void multiply_half(const PanelProduct& product, const std::uint16_t* panel) {
  multiply_panel(product, reinterpret_cast<const Half*>(panel), nullptr);
}

void multiply_bfloat16(const PanelProduct& product, const std::uint16_t* panel) {
  multiply_panel(product, panel, nullptr);
}

void multiply_int8(const PanelProduct& product, const std::int8_t* panel, const float* scale) {
  multiply_panel(product, panel, scale);
}

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
