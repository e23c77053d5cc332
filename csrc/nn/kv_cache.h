#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"

namespace torchwhisper::nn {

/// Keys and values of one attention layer: [row, head, time, dim].
struct KeyValue {
  at::Tensor key;
  at::Tensor value;
};

/// Keys and values of the tokens decoded so far in one self-attention layer, in memory that is allocated
/// once.
class TORCHWHISPER_API KeyValueCache {
 public:
  /// Room for `n_ctx` tokens of `rows` sequences; type and device as `like`.
  KeyValueCache(std::int64_t rows, std::int64_t n_head, std::int64_t n_ctx, std::int64_t dim,
                const at::Tensor& like);

  /// Stores the keys and values of the next tokens, [row, head, new, dim], and returns those of all so far.
  KeyValue append(const at::Tensor& key, const at::Tensor& value);

  /// Row i becomes what row sources[i] was.
  void reorder(const std::vector<std::int64_t>& sources);

  /// A cache that holds each row `times` times, copies next to each other.
  KeyValueCache repeat_rows(std::int64_t times) const;

  std::int64_t length() const { return length_; }

 private:
  at::Tensor keys_;    // [row, head, n_ctx, dim]
  at::Tensor values_;  // [row, head, n_ctx, dim]
  std::int64_t length_ = 0;
};

}  // namespace torchwhisper::nn
