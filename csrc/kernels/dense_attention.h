#pragma once

#include <cstdint>

#include "csrc/common/api.h"

namespace torchwhisper::kernels {

/// Attention of many queries, softmax(q k^T * scale) v, unmasked: y as q. Heads lie next to each other in
/// rows, as the product of all projections leaves them. q, k and v share a stride.
struct DenseAttention {
  const float* q;  // [batch][time][stride], of which n_head * dim count
  const float* k;
  const float* v;
  std::int64_t stride;
  std::int64_t batch;
  std::int64_t time;  // how many queries, keys and values
  std::int64_t n_head;
  std::int64_t dim;  // at most kPanelWidth
  float scale;
  float* y;  // [batch][time][n_head * dim]
};

/// On all threads. `in_bfloat16` rounds what is multiplied to bfloat16, which the processor has to multiply
/// fast (words.h); the softmax is in float32 either way.
TORCHWHISPER_API void attend_densely(const DenseAttention& attention, bool in_bfloat16);

}  // namespace torchwhisper::kernels
