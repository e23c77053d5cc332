#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "csrc/common/api.h"

namespace torchwhisper::nn {

/// The parameters of a linear layer or a layer normalisation.
struct Affine {
  at::Tensor weight;
  at::Tensor bias;  // undefined for a layer without one
};

/// One attention of a block with the normalisation before it.
struct AttentionWeights {
  Affine norm;
  Affine query;
  Affine key;  // has no bias
  Affine value;
  Affine out;
};

/// The feed-forward half of a block with the normalisation before it.
struct MlpWeights {
  Affine norm;
  Affine expand;    // n_state -> 4 n_state
  Affine contract;  // 4 n_state -> n_state
};

/// The parameters of a residual block as plain tensors: what a function that recomputes takes as its inputs.
struct TORCHWHISPER_API BlockWeights {
  AttentionWeights attn;
  std::optional<AttentionWeights> cross_attn;
  MlpWeights mlp;

  /// All tensors in a fixed order.
  std::vector<at::Tensor> flatten() const;

  /// How many tensors those are.
  static std::size_t count(bool cross_attention);

  /// The inverse of flatten().
  static BlockWeights unflatten(at::TensorList tensors, bool cross_attention);
};

}  // namespace torchwhisper::nn
