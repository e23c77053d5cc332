#pragma once

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/kernels/table.h"

/// Matrices [columns, depth], as linear layers keep their weights, laid out in panels of kPanelWidth columns:
/// [panel][depth][kPanelWidth], the last one filled up with zeros. A product then reads its weights once,
/// from front to back, however few rows it has.
namespace torchwhisper::kernels {

/// How many panels hold `columns`.
constexpr std::int64_t panel_count(std::int64_t columns) { return (columns + kPanelWidth - 1) / kPanelWidth; }

/// How many numbers they have.
constexpr std::int64_t panels_size(std::int64_t columns, std::int64_t depth) {
  return panel_count(columns) * depth * kPanelWidth;
}

/// Lays out `matrix`: [columns][stride], of which `depth` numbers count. On the calling thread.
TORCHWHISPER_API void pack_panels(const float* matrix, std::int64_t stride, std::int64_t columns,
                                  std::int64_t depth, float* panels);

/// Lays out one panel of float16. matrix: [columns of the panel][depth]. On the calling thread.
TORCHWHISPER_API void pack_panel_half(const std::uint16_t* matrix, std::int64_t columns, std::int64_t depth,
                                      std::uint16_t* panel);

/// Lays out a matrix rounded to int8, column by column: panels[...] * scale[column] is within scale / 2 of
/// the matrix. distance[column] is the Euclidean distance between the column and what is left of it.
struct Int8Panels {
  std::int8_t* panels;  // panels_size()
  float* scale;         // panel_count() * kPanelWidth
  float* distance;      // as many
};
TORCHWHISPER_API void pack_panels_int8(const float* matrix, std::int64_t columns, std::int64_t depth,
                                       const Int8Panels& packed);

/// y[rows][columns] = x[rows][depth] * matrix^T and its epilogue, on all threads. Rows of x may overlap:
/// those of a convolution do.
struct RowsAndColumns {
  const float* x;
  std::int64_t rows;
  std::int64_t depth;
  std::int64_t columns;
  float* y;
  Epilogue epilogue = {};
  std::int64_t x_stride = depth;  // from one row of x to the next
};
TORCHWHISPER_API void multiply_panels(const RowsAndColumns& product, const float* panels);

/// The same with panels in float16, of finite numbers only. They are a matrix in float32 that float16 can
/// hold, as checkpoints are: the product is that of multiply_panels(), bit by bit.
TORCHWHISPER_API void multiply_panels_half(const RowsAndColumns& product, const std::uint16_t* panels);

/// Whether that costs no more than what it saves in reading.
TORCHWHISPER_API bool multiplies_half_fast();

/// The same with int8 panels and their scales.
TORCHWHISPER_API void multiply_panels_int8(const RowsAndColumns& product, const std::int8_t* panels,
                                           const float* scale);

}  // namespace torchwhisper::kernels
