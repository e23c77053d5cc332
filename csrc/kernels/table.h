#pragma once

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/kernels/isa.h"

/// Inner loops for the CPU, compiled once for each instruction set and chosen when the program runs.
namespace torchwhisper::kernels {

/// How many columns of a matrix lie next to each other in a panel: [depth][kPanelWidth].
inline constexpr std::int64_t kPanelWidth = 64;

/// What is done with a product before it is stored, in this order.
struct Epilogue {
  const float* bias = nullptr;      // [columns], added where it is given
  bool gelu = false;                // x * Phi(x), the exact one
  const float* residual = nullptr;  // of the shape and strides of y, added where it is given
};

/// A product of few rows with one panel: y[row][column] = sum over depth of x[row][k] * panel[k][column],
/// times the column's scale (int8 panels).
struct PanelProduct {
  const float* x;  // [rows][depth]
  std::int64_t x_stride;
  std::int64_t rows;
  std::int64_t depth;
  float* y;  // [rows][columns]
  std::int64_t y_stride;
  std::int64_t columns;  // at most kPanelWidth
  Epilogue epilogue = {};
};

struct KernelTable {
  void (*multiply)(const PanelProduct& product, const float* panel);
  /// scale: [columns].
  void (*multiply_int8)(const PanelProduct& product, const std::int8_t* panel, const float* scale);
  /// The sum of x[i] * y[i].
  float (*dot)(const float* x, const float* y, std::int64_t n);
  /// The largest of n >= 1 numbers, none of them NaN.
  float (*maximum)(const float* x, std::int64_t n);
  /// log(sum(exp(x))) of n >= 1 numbers of which at least one is finite.
  float (*log_sum_exp)(const float* x, std::int64_t n);
  /// x = exp((x - max(x)) * scale), in place; returns the sum of all.
  float (*exponentials)(float* x, std::int64_t n, float scale);
  /// y = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, of n >= 1 numbers.
  void (*layer_norm)(const float* x, std::int64_t n, const float* weight, const float* bias, float epsilon,
                     float* y);
};

/// The kernels of best_isa().
TORCHWHISPER_API const KernelTable& kernels();

/// Those of one instruction set, or null where it is above best_isa() or was not compiled.
TORCHWHISPER_API const KernelTable* kernels_for(Isa isa);

}  // namespace torchwhisper::kernels
