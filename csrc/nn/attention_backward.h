#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"
#include "csrc/nn/fused_attention.h"
#include "csrc/nn/layer_norm_backward.h"
#include "csrc/nn/product_weights.h"

/// The attention half of a residual block, y = x + attention(norm(x)), differentiated by hand.
namespace torchwhisper::nn {

struct AttentionCall {
  const at::Tensor& x;                 // [batch, time, n_state]
  const at::Tensor& features;          // [batch, frame, n_state]; undefined: x attends to itself
  const AttentionWeights& parameters;  // the gradients of those that require them are wanted
  const AttentionProducts& products;
  std::int64_t n_head;
  bool causal;
};

/// What is computed on the way to y.
struct AttentionTape {
  Normed norm;
  at::Tensor q;  // [batch, head, time, dim]; so are k and v
  at::Tensor k;
  at::Tensor v;
  Attended attended;
};

struct AttentionGradients {
  at::Tensor x;         // in the type of y's gradient; undefined where not wanted, as the others
  at::Tensor features;  // in the type of the products
  AttentionWeights weights;
};

/// Everything up to the heads' outputs: y is attention_output() of it.
TORCHWHISPER_API AttentionTape attention_forward(const AttentionCall& call);

/// y, in the type that x and the products are promoted to.
TORCHWHISPER_API at::Tensor attention_output(const AttentionCall& call, const AttentionTape& tape);

/// grad: of y. The tape may lack its `norm`, which is computed again then.
TORCHWHISPER_API AttentionGradients attention_backward(const at::Tensor& grad, const AttentionCall& call,
                                                       AttentionTape tape, bool wants_x, bool wants_features);

}  // namespace torchwhisper::nn
