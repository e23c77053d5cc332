#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"

namespace torchwhisper::nn {

/// Normalises x: [..., n_state] and gives the result to each of the linear layers. For the backward pass it
/// keeps x, from which it normalises again. First-order gradients only.
TORCHWHISPER_API std::vector<at::Tensor> norm_linear(const at::Tensor& x, const Affine& norm,
                                                     const std::vector<Affine>& layers);

}  // namespace torchwhisper::nn
