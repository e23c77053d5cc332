#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/packed_linear.h"

namespace torchwhisper::nn {

/// The product of hidden states with the tied token embedding, prepared for inference in one precision.
///
/// On a CPU in float32 throughout it is the largest read of every token. A search needs only its best entries
/// exactly, so it may draft all logits from weights rounded to int8, a quarter of the bytes, and then compute
/// those in float32 that can matter: the error of a draft has a bound (Cauchy-Schwarz on what rounding took
/// away), and whatever lies within it of the best ones is refined. The tokens are those of the whole product.
class TORCHWHISPER_API VocabularyHead {
 public:
  /// weight: [n_vocab, n_state].
  VocabularyHead(const at::Tensor& weight, Precision precision, WeightArena& arena);

  bool serves(const at::Tensor& hidden) const { return exact_.serves(hidden); }

  /// hidden: [..., n_state] -> logits [..., n_vocab] float32.
  at::Tensor forward(const at::Tensor& hidden) const;

  /// hidden: [row, n_state] -> approximate logits [row, n_vocab] float32; the exact ones where nothing is
  /// gained by less.
  at::Tensor draft(const at::Tensor& hidden) const;

  struct Wanted {
    std::int64_t best;      // how many of a row's largest logits have to be exact
    std::int64_t together;  // from this index on, logits count by their sum as well; -1 for none
  };

  /// Makes drafted logits of `hidden`, of which some were set to -inf since, exact where it matters: the
  /// `best` largest, those close to them, and all from `together` on where their logsumexp may come close to
  /// the largest. What stays a draft weighs less than e^-12 of the largest each. Returns whether that took
  /// the whole product, so that the drafts were in vain.
  bool refine(at::Tensor& logits, const at::Tensor& hidden, Wanted wanted) const;

 private:
  std::vector<std::int64_t> to_refine(const float* logits, const float* hidden, Wanted wanted) const;
  void multiply_entries(float* logits, const float* hidden, const std::vector<std::int64_t>& entries) const;

  PackedLinear exact_;
  at::Tensor weight_;  // rows for single entries, as given; undefined where there are no drafts
  at::Tensor panels_;  // int8
  at::Tensor scale_;
  float distance_ = 0.0F;  // the most that rounding moved a row of the weight
};

}  // namespace torchwhisper::nn
