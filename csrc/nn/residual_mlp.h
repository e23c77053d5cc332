#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"
#include "csrc/nn/replay.h"

namespace torchwhisper::nn {

/// x + contract(gelu(expand(norm(x)))) for x: [..., n_state]. For the backward pass it keeps x and, if
/// `keep_product`, what `expand` gave; the rest is computed again. First-order gradients only.
TORCHWHISPER_API at::Tensor residual_mlp(const at::Tensor& x, const MlpWeights& weights, bool keep_product);

/// Gradients in the order x, norm, expand, contract (each weight, bias); undefined where not wanted.
using ResidualMlpGradients = std::array<at::Tensor, 7>;

/// The backward pass alone. product: what `expand` gave, or undefined; the last product is not needed.
/// autocast: of the forward pass.
TORCHWHISPER_API ResidualMlpGradients residual_mlp_backward(const at::Tensor& grad, const at::Tensor& x,
                                                            const at::Tensor& product,
                                                            const MlpWeights& weights,
                                                            const std::array<bool, 7>& wanted,
                                                            const Autocast& autocast);

}  // namespace torchwhisper::nn
