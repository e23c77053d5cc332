#include "csrc/kernels/attention.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>

namespace torchwhisper::kernels {
namespace {

// A product with keys or values, of which it takes those from `offset` on. scale: [columns], of int8.
void multiply(MemoryType type, const PanelProduct& product, const void* panels, std::int64_t offset,
              const float* scale) {
  switch (type) {
    case MemoryType::kFloat32:
      return kernels().multiply(product, static_cast<const float*>(panels) + offset);
    case MemoryType::kBfloat16:
      return kernels().multiply_bfloat16(product, static_cast<const std::uint16_t*>(panels) + offset);
    case MemoryType::kInt8:
      return kernels().multiply_int8(product, static_cast<const std::int8_t*>(panels) + offset, scale);
  }
}

void multiply_with_keys(const HeadAttention& head, float* scores, std::int64_t stride) {
  for (std::int64_t panel = 0; panel < panel_count(head.memory); ++panel) {
    const std::int64_t first = panel * kPanelWidth;
    multiply(head.type,
             {head.q, head.q_stride, head.rows, head.dim, scores + first, stride,
              std::min(kPanelWidth, head.memory - first)},
             head.key_panels, first * head.dim, head.key_scale == nullptr ? nullptr : head.key_scale + first);
  }
}

}  // namespace

void attend(const HeadAttention& head, float* scores) {
  const std::int64_t stride = score_stride(head.memory);
  multiply_with_keys(head, scores, stride);
  std::array<float, kMostQueries> factors;
  TORCH_INTERNAL_ASSERT_DEBUG_ONLY(head.rows <= kMostQueries);
  for (std::int64_t row = 0; row < head.rows; ++row) {
    factors[static_cast<std::size_t>(row)] =
        1.0F / kernels().exponentials(scores + row * stride, head.memory, head.scale);
  }
  multiply(head.type, {scores, stride, head.rows, head.memory, head.y, head.y_stride, head.dim}, head.values,
           0, head.value_scale);
  for (std::int64_t row = 0; row < head.rows; ++row) {
    for (std::int64_t d = 0; d < head.dim; ++d) {
      head.y[row * head.y_stride + d] *= factors[static_cast<std::size_t>(row)];
    }
  }
}

void score(const HeadAttention& head, float* scores) {
  multiply_with_keys(head, scores, head.memory);
  for (std::int64_t i = 0; i < head.rows * head.memory; ++i) {
    scores[i] *= head.scale;
  }
}

}  // namespace torchwhisper::kernels
