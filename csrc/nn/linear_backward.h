#pragma once

#include <ATen/core/Tensor.h>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"

namespace torchwhisper::nn {

/// Which gradients of y = x W^T + b are wanted.
struct Wanted {
  bool x;
  bool weight;
  bool bias;
};

struct LinearGradients {
  at::Tensor x;       // in the type of grad; undefined where not wanted, as the others
  at::Tensor weight;  // in the type of the parameter
  at::Tensor bias;
};

/// grad: [..., out] of y, x: [..., in] as the forward pass multiplied it, apart from its type.
TORCHWHISPER_API LinearGradients linear_backward(const at::Tensor& grad, const at::Tensor& x,
                                                 const Affine& layer, const Wanted& wanted);

}  // namespace torchwhisper::nn
