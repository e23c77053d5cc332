#include "csrc/kernels/attention.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>

namespace torchwhisper::kernels {
namespace {

// A product with keys or values, of which it takes those from `offset` on.
void multiply(const HeadAttention& head, const PanelProduct& product, const void* panels,
              std::int64_t offset) {
  if (head.in_bfloat16) {
    kernels().multiply_bfloat16(product, static_cast<const std::uint16_t*>(panels) + offset);
  } else {
    kernels().multiply(product, static_cast<const float*>(panels) + offset);
  }
}

void multiply_with_keys(const HeadAttention& head, float* scores, std::int64_t stride) {
  for (std::int64_t panel = 0; panel < panel_count(head.memory); ++panel) {
    const std::int64_t first = panel * kPanelWidth;
    multiply(head,
             {head.q, head.q_stride, head.rows, head.dim, scores + first, stride,
              std::min(kPanelWidth, head.memory - first)},
             head.key_panels, first * head.dim);
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
  multiply(head, {scores, stride, head.rows, head.memory, head.y, head.y_stride, head.dim}, head.values, 0);
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
