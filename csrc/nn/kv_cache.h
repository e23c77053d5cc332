#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/functional.h"

namespace torchwhisper::nn {

/// Keys and values that one attention layer remembers between tokens, in memory that is allocated once: of
/// the tokens decoded so far, or of the audio. On a CPU in float32 they lie as the kernels read them
/// (kernels/attention.h).
class TORCHWHISPER_API KeyValueCache {
 public:
  /// Room for `n_ctx` keys and values of `rows` sequences; type and device as `like`.
  KeyValueCache(std::int64_t rows, std::int64_t n_head, std::int64_t n_ctx, std::int64_t dim,
                const at::Tensor& like);

  /// Stores the next keys and values: [row, head, new, dim].
  void append(const at::Tensor& key, const at::Tensor& value);

  /// Attention of q: [row, time, head * dim] to everything stored, unmasked -> the same shape. No gradients.
  at::Tensor attend(const at::Tensor& q) const;

  /// The same, keeping the scores; `out` is [row, head, time, dim].
  functional::AttentionWithScores attend_with_scores(const at::Tensor& q) const;

  /// Row i becomes what row sources[i] was. Only what follows their common beginning is copied.
  void reorder(const std::vector<std::int64_t>& sources);

  /// A cache that holds each row `times` times, copies next to each other.
  KeyValueCache repeat_rows(std::int64_t times) const;

  std::int64_t rows() const { return keys_.size(0); }
  std::int64_t length() const { return length_; }

 private:
  // The keys and values of one row from some place on: [head, n, dim].
  struct Tail {
    at::Tensor key;
    at::Tensor value;
  };

  at::Tensor used(const at::Tensor& cache) const;
  void append_to_panels(const at::Tensor& key, const at::Tensor& value);
  float* key_at(std::int64_t row, std::int64_t head, std::int64_t place) const;
  float* value_at(std::int64_t row, std::int64_t head, std::int64_t place) const;
  void write(std::int64_t row, std::int64_t head, std::int64_t place, const float* key, const float* value);
  Tail take(std::int64_t row, std::int64_t begin) const;
  void put(std::int64_t row, std::int64_t begin, const Tail& tail);
  template <typename Visit>
  void visit_heads(const at::Tensor& q, Visit visit) const;

  std::int64_t n_head_;
  std::int64_t dim_;
  bool in_panels_;
  at::Tensor keys_;    // [row, head, n_ctx, dim]; in panels [row, head, panel, dim, width]
  at::Tensor values_;  // [row, head, n_ctx, dim]; in panels [row, head, n_ctx, width]
  std::int64_t length_ = 0;
  std::vector<std::int64_t> alike_;  // [row][row]: how many of their first keys and values are equal
};

}  // namespace torchwhisper::nn
