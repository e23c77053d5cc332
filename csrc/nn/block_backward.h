#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/attention_backward.h"
#include "csrc/nn/block_weights.h"
#include "csrc/nn/mlp_backward.h"
#include "csrc/nn/product_weights.h"

/// A whole residual block, differentiated by hand.
namespace torchwhisper::nn {

struct BlockCall {
  at::Tensor x;             // [batch, time, n_state]
  at::Tensor features;      // [batch, frame, n_state]; undefined for a block without cross-attention
  BlockWeights parameters;  // the gradients of those that require them are wanted, and of x and the features
  ProductWeights products;
  std::int64_t n_head;
};

/// What a block computes on the way to its output. Where there is no cross-attention its members are
/// undefined.
struct TORCHWHISPER_API BlockTape {
  AttentionTape self;
  at::Tensor after_self;  // x after the attention to itself
  AttentionTape cross;
  at::Tensor after_cross;
  MlpTape mlp;

  /// All tensors in a fixed order, undefined ones too.
  std::vector<at::Tensor> flatten() const;

  /// The inverse of flatten(); self_kernel and cross_kernel are those of `attended`.
  static BlockTape unflatten(at::TensorList tensors, at::SDPBackend self_kernel, at::SDPBackend cross_kernel);
};

struct BlockGradients {
  at::Tensor x;  // undefined where not wanted, as the others
  at::Tensor features;
  BlockWeights weights;
};

/// Both halves but the last product: the output is block_output() of it.
TORCHWHISPER_API BlockTape block_forward(const BlockCall& call);

/// [batch, time, n_state], in the type that x and the products are promoted to.
TORCHWHISPER_API at::Tensor block_output(const BlockCall& call, const BlockTape& tape);

/// grad: of the output. The tape may lack what attention_backward() and mlp_backward() compute again.
TORCHWHISPER_API BlockGradients block_backward(const at::Tensor& grad, const BlockCall& call, BlockTape tape);

}  // namespace torchwhisper::nn
