#include "csrc/kernels/attention.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>

namespace torchwhisper::kernels {
namespace {

void multiply_with_keys(const HeadAttention& head, float* scores) {
  for (std::int64_t panel = 0; panel < panel_count(head.memory); ++panel) {
    const std::int64_t first = panel * kPanelWidth;
    kernels().multiply({head.q, head.q_stride, head.rows, head.dim, scores + first, head.memory,
                        std::min(kPanelWidth, head.memory - first)},
                       head.key_panels + first * head.dim);
  }
}

}  // namespace

void attend(const HeadAttention& head, float* scores) {
  multiply_with_keys(head, scores);
  std::array<float, kMostQueries> factors;
  TORCH_INTERNAL_ASSERT_DEBUG_ONLY(head.rows <= kMostQueries);
  for (std::int64_t row = 0; row < head.rows; ++row) {
    factors[static_cast<std::size_t>(row)] =
        1.0F / kernels().exponentials(scores + row * head.memory, head.memory, head.scale);
  }
  kernels().multiply({scores, head.memory, head.rows, head.memory, head.y, head.y_stride, head.dim},
                     head.values);
  for (std::int64_t row = 0; row < head.rows; ++row) {
    for (std::int64_t d = 0; d < head.dim; ++d) {
      head.y[row * head.y_stride + d] *= factors[static_cast<std::size_t>(row)];
    }
  }
}

void score(const HeadAttention& head, float* scores) {
  multiply_with_keys(head, scores);
  for (std::int64_t i = 0; i < head.rows * head.memory; ++i) {
    scores[i] *= head.scale;
  }
}

}  // namespace torchwhisper::kernels
