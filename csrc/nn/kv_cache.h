#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/functional.h"

namespace torchwhisper::nn {

/// Keys and values that one attention layer remembers between tokens, in memory that is allocated once: of
/// the tokens decoded so far, or of the audio. On a CPU with float32 queries they lie as the kernels read
/// them (kernels/attention.h).
class TORCHWHISPER_API KeyValueCache {
 public:
  /// Room for `n_ctx` keys and values of `rows` sequences; type and device as `like`. `shortened` keeps those
  /// of float32 queries on a CPU in bfloat16, half of what every token reads.
  KeyValueCache(std::int64_t rows, std::int64_t n_head, std::int64_t n_ctx, std::int64_t dim,
                const at::Tensor& like, bool shortened = false);

  /// Stores the next keys and values: [row, head, new, dim].
  void append(const at::Tensor& key, const at::Tensor& value);

  /// Attention on plain rows, where the cache is in_panels(): one new key and value of every row, key and
  /// value: [row][stride], and queries q: [row][time][stride] -> y: [row][time][head * dim].
  void append_rows(const float* key, const float* value, std::int64_t stride);
  void attend_rows(const float* q, std::int64_t time, std::int64_t stride, float* y) const;

  /// Whether kernels attend to it: on a CPU, with queries in float32.
  bool in_panels() const { return in_panels_; }

  /// Attention of q: [row, time, head * dim] to everything stored, unmasked -> the same shape. No gradients.
  at::Tensor attend(const at::Tensor& q) const;

  /// The same, keeping the scores of some heads: [row, wanted, time, length]; `out` is [row, head, time,
  /// dim].
  functional::AttentionWithScores attend_with_scores(const at::Tensor& q,
                                                     const std::vector<std::int64_t>& heads) const;

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
  void write_as_kept(std::int64_t row, std::int64_t head, std::int64_t place, const float* key,
                     const float* value);
  void append_to_panels(const at::Tensor& key, const at::Tensor& value);
  template <typename Element>
  Element* key_at(std::int64_t row, std::int64_t head, std::int64_t place) const;
  template <typename Element>
  Element* value_at(std::int64_t row, std::int64_t head, std::int64_t place) const;
  template <typename Element, typename Given>
  void write(std::int64_t row, std::int64_t head, std::int64_t place, const Given* key, const Given* value);
  template <typename Element>
  Tail take_from_panels(std::int64_t row, std::int64_t begin) const;
  template <typename Element>
  void put_into_panels(std::int64_t row, std::int64_t begin, const Tail& tail);
  Tail take(std::int64_t row, std::int64_t begin) const;
  void put(std::int64_t row, std::int64_t begin, const Tail& tail);
  template <typename Visit>
  void visit_heads(const float* q, std::int64_t time, std::int64_t stride, Visit visit) const;

  std::int64_t n_head_;
  std::int64_t dim_;
  bool in_panels_;
  bool shortened_;
  at::Tensor keys_;    // [row, head, n_ctx, dim]; in panels [row, head, panel, dim, width]
  at::Tensor values_;  // [row, head, n_ctx, dim]; in panels [row, head, n_ctx, width]
  std::int64_t length_ = 0;
  std::vector<std::int64_t> alike_;  // [row][row]: how many of their first keys and values are equal
};

}  // namespace torchwhisper::nn
