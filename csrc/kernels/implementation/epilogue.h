#pragma once

#include "csrc/kernels/implementation/vectors.h"
#include "csrc/kernels/table.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

/// What the last panel lacks is made up with zeros, so that every row is a whole number of vectors.
struct Columns {
  alignas(64) float values[kPanelWidth];

  Columns(const float* from, std::int64_t columns) {
    for (std::int64_t c = 0; c < kPanelWidth; ++c) {
      values[c] = from != nullptr && c < columns ? from[c] : 0.0F;
    }
  }
};

inline Floats load_sums(const float* from) { return load(from); }

inline Floats load_sums(const std::int32_t* from) {
  Ints value;
  __builtin_memcpy(&value, from, sizeof(value));
  return __builtin_convertvector(value, Floats);
}

/// The sums of one row and kPanelWidth columns, times row_scale * scale where it is given, with their
/// epilogue. kRough: with a quicker GELU.
template <bool kRough, typename Sum>
inline void finish_row(const Sum* sums, const Output& out, float row_scale, const float* scale,
                       const float* bias, std::int64_t row) {
  alignas(64) float rest[kPanelWidth];
  const bool whole = out.columns == kPanelWidth;
  float* y = out.y + row * out.y_stride;
  float* to = whole ? y : rest;
  const float* residual =
      out.epilogue.residual == nullptr ? nullptr : out.epilogue.residual + row * out.y_stride;
  for (std::int64_t c = 0; c < kPanelWidth; c += kLanes) {
    Floats value = load_sums(sums + c);
    if (scale != nullptr) {
      value *= load(scale + c) * row_scale;
    }
    value += load(bias + c);
    if (out.epilogue.gelu) {
      value = kRough ? rough_gelu_of(value) : gelu_of(value);
    }
    if (whole && residual != nullptr) {
      value += load(residual + c);
    }
    store(to + c, value);
  }
  if (!whole) {
    for (std::int64_t c = 0; c < out.columns; ++c) {
      y[c] = residual == nullptr ? rest[c] : rest[c] + residual[c];
    }
  }
}

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
