#pragma once

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/kernels/panels.h"

namespace torchwhisper::kernels {

/// How many queries attend() takes at once: their scores stay in the processor's cache.
inline constexpr std::int64_t kMostQueries = 48;

/// One head of attention with few queries: y = softmax(q k^T * scale) v.
struct HeadAttention {
  const float* q;  // [rows][q_stride], of which `dim` count
  std::int64_t q_stride;
  std::int64_t rows;       // at most kMostQueries
  std::int64_t dim;        // at most kPanelWidth
  std::int64_t memory;     // how many keys and values
  const void* key_panels;  // the keys [memory, dim] as panels
  const void* values;      // [memory][kPanelWidth]
  bool in_bfloat16;        // what keys and values are kept in, if not in float32
  float scale;
  float* y;  // [rows][y_stride]
  std::int64_t y_stride;
};

/// From one row of scratch to the next, in numbers: rows begin on cache lines of different sets.
constexpr std::int64_t score_stride(std::int64_t memory) {
  return (memory + kPanelWidth - 1) / kPanelWidth * kPanelWidth + 16;
}

/// `scores`: [rows][score_stride(memory)], scratch. Throws nothing. On the calling thread.
TORCHWHISPER_API void attend(const HeadAttention& head, float* scores);

/// Only q k^T * scale: scores [rows][memory].
TORCHWHISPER_API void score(const HeadAttention& head, float* scores);

}  // namespace torchwhisper::kernels
