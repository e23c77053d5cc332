#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"

namespace torchwhisper::nn {

/// The weights of one attention as its products read them: those of one input joined in one matrix.
struct AttentionProducts {
  Affine of_x;         // query; followed by key and value where x attends to itself
  Affine of_features;  // key and value, or undefined
  Affine out;
};

/// The weights of a block in the type that its products run in.
struct TORCHWHISPER_API ProductWeights {
  AttentionProducts attn;
  std::optional<AttentionProducts> cross_attn;
  Affine expand;
  Affine contract;

  /// All tensors in a fixed order.
  std::vector<at::Tensor> flatten() const;

  /// The inverse of flatten().
  static ProductWeights unflatten(at::TensorList tensors, bool cross_attention);
};

/// Copies what has to be joined or cast, all at once; the rest are the parameters themselves.
TORCHWHISPER_API ProductWeights product_weights(const BlockWeights& parameters, at::ScalarType dtype);

}  // namespace torchwhisper::nn
