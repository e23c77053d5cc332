#include "csrc/kernels/panels.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

namespace torchwhisper::kernels {
namespace {

std::int64_t columns_of(std::int64_t panel, std::int64_t columns) {
  return std::min(kPanelWidth, columns - panel * kPanelWidth);
}

PanelProduct product_of(const RowsAndColumns& whole, std::int64_t panel) {
  const std::int64_t first = panel * kPanelWidth;
  const auto from = [first](const float* pointer) { return pointer == nullptr ? nullptr : pointer + first; };
  return {whole.x,
          whole.x_stride,
          whole.rows,
          whole.depth,
          whole.y + first,
          whole.columns,
          columns_of(panel, whole.columns),
          {from(whole.epilogue.bias), whole.epilogue.gelu, from(whole.epilogue.residual)}};
}

// Below this many multiplications a second thread costs more than it gives.
constexpr std::int64_t kWorthAThread = 40'000;

std::int64_t panels_per_thread(const RowsAndColumns& whole) {
  const std::int64_t work = whole.rows * whole.depth * kPanelWidth;
  return std::max<std::int64_t>(1, kWorthAThread / std::max<std::int64_t>(1, work));
}

template <typename Weight>
void multiply_each(const RowsAndColumns& product, const Weight* panels,
                   void (*multiply)(const PanelProduct&, const Weight*)) {
  at::parallel_for(0, panel_count(product.columns), panels_per_thread(product),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t panel = begin; panel < end; ++panel) {
                       multiply(product_of(product, panel), panels + panel * product.depth * kPanelWidth);
                     }
                   });
}

void round_column(const float* column, std::int64_t depth, std::int64_t index, const Int8Panels& packed) {
  float largest = 0.0F;
  for (std::int64_t k = 0; k < depth; ++k) {
    largest = std::max(largest, std::abs(column[k]));
  }
  const float scale = largest / 127.0F;
  std::int8_t* panel = packed.panels + index / kPanelWidth * depth * kPanelWidth + index % kPanelWidth;
  double distance = 0.0;
  for (std::int64_t k = 0; k < depth; ++k) {
    const float quotient = column[k] / scale;
    const float rounded = std::isfinite(quotient) ? std::nearbyint(quotient) : 0.0F;
    panel[k * kPanelWidth] = static_cast<std::int8_t>(rounded);
    const double error = static_cast<double>(column[k]) - static_cast<double>(rounded * scale);
    distance += error * error;
  }
  packed.scale[index] = scale;
  packed.distance[index] = static_cast<float>(std::sqrt(distance));
}

void clear_column(std::int64_t depth, std::int64_t index, const Int8Panels& packed) {
  std::int8_t* panel = packed.panels + index / kPanelWidth * depth * kPanelWidth + index % kPanelWidth;
  for (std::int64_t k = 0; k < depth; ++k) {
    panel[k * kPanelWidth] = 0;
  }
  packed.scale[index] = 0.0F;
  packed.distance[index] = 0.0F;
}

}  // namespace

void pack_panels(const float* matrix, std::int64_t stride, std::int64_t columns, std::int64_t depth,
                 float* panels) {
  for (std::int64_t panel = 0; panel < panel_count(columns); ++panel) {
    const float* first = matrix + panel * kPanelWidth * stride;
    const std::int64_t width = columns_of(panel, columns);
    float* to = panels + panel * depth * kPanelWidth;
    for (std::int64_t k = 0; k < depth; ++k, to += kPanelWidth) {
      for (std::int64_t c = 0; c < width; ++c) {
        to[c] = first[c * stride + k];
      }
      std::fill(to + width, to + kPanelWidth, 0.0F);
    }
  }
}

void pack_panel_half(const std::uint16_t* matrix, std::int64_t columns, std::int64_t depth,
                     std::uint16_t* panel) {
  for (std::int64_t k = 0; k < depth; ++k, panel += kPanelWidth) {
    for (std::int64_t c = 0; c < columns; ++c) {
      panel[c] = matrix[c * depth + k];
    }
    std::fill(panel + columns, panel + kPanelWidth, std::uint16_t{0});
  }
}

void pack_panels_int8(const float* matrix, std::int64_t columns, std::int64_t depth,
                      const Int8Panels& packed) {
  at::parallel_for(0, panel_count(columns) * kPanelWidth, kPanelWidth,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t column = begin; column < end; ++column) {
                       if (column < columns) {
                         round_column(matrix + column * depth, depth, column, packed);
                       } else {
                         clear_column(depth, column, packed);
                       }
                     }
                   });
}

void multiply_panels(const RowsAndColumns& product, const float* panels) {
  multiply_each(product, panels, kernels().multiply);
}

void multiply_panels_half(const RowsAndColumns& product, const std::uint16_t* panels) {
  multiply_each(product, panels, kernels().multiply_half);
}

bool multiplies_half_fast() { return has_isa(Isa::kAvx2); }

void multiply_panels_int8(const RowsAndColumns& product, const std::int8_t* panels, const float* scale) {
  const auto& multiply = kernels().multiply_int8;
  at::parallel_for(0, panel_count(product.columns), panels_per_thread(product),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t panel = begin; panel < end; ++panel) {
                       multiply(product_of(product, panel), panels + panel * product.depth * kPanelWidth,
                                scale + panel * kPanelWidth);
                     }
                   });
}

}  // namespace torchwhisper::kernels
