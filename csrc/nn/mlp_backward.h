#pragma once

#include <ATen/core/Tensor.h>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"
#include "csrc/nn/layer_norm_backward.h"

/// The feed-forward half of a residual block, y = x + mlp(norm(x)), differentiated by hand.
namespace torchwhisper::nn {

struct MlpCall {
  const at::Tensor& x;           // [batch, time, n_state]
  const MlpWeights& parameters;  // the gradients of those that require them are wanted
  const Affine& expand;          // of them, in the type of the products
  const Affine& contract;
};

/// What is computed on the way to y.
struct MlpTape {
  Normed norm;
  at::Tensor expanded;   // [batch, time, 4 n_state]
  at::Tensor activated;  // GELU of it
};

struct MlpGradients {
  at::Tensor x;  // in the type of y's gradient; undefined where not wanted, as the others
  MlpWeights weights;
};

/// Everything up to GELU's output: y is mlp_output() of it.
TORCHWHISPER_API MlpTape mlp_forward(const MlpCall& call);

/// y, in the type that x and the products are promoted to.
TORCHWHISPER_API at::Tensor mlp_output(const MlpCall& call, const MlpTape& tape);

/// grad: of y. What the tape lacks is computed again: `activated` alone, or the norm, or both and `expanded`.
TORCHWHISPER_API MlpGradients mlp_backward(const at::Tensor& grad, const MlpCall& call, MlpTape tape,
                                           bool wants_x);

}  // namespace torchwhisper::nn
