#include "csrc/kernels/attention.h"

#include <algorithm>

namespace torchwhisper::kernels {
namespace {

void multiply_with_keys(const HeadAttention& head, float* scores) {
  for (std::int64_t panel = 0; panel < panel_count(head.memory); ++panel) {
    const std::int64_t first = panel * kPanelWidth;
    kernels().multiply({head.q, head.q_stride, head.rows, head.dim, nullptr, nullptr, scores + first,
                        head.memory, std::min(kPanelWidth, head.memory - first)},
                       head.key_panels + first * head.dim);
  }
}

}  // namespace

void attend(const HeadAttention& head, float* scores) {
  multiply_with_keys(head, scores);
  for (std::int64_t row = 0; row < head.rows; ++row) {
    kernels().softmax(scores + row * head.memory, head.memory, head.scale);
  }
  kernels().multiply(
      {scores, head.memory, head.rows, head.memory, nullptr, nullptr, head.y, head.y_stride, head.dim},
      head.values);
}

void score(const HeadAttention& head, float* scores) {
  multiply_with_keys(head, scores);
  for (std::int64_t i = 0; i < head.rows * head.memory; ++i) {
    scores[i] *= head.scale;
  }
}

}  // namespace torchwhisper::kernels
