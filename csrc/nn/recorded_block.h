#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"

namespace torchwhisper::nn {

/// A residual block in operators that autograd records, for gradients of gradients. x: [batch, time,
/// n_state]; features: [batch, frame, n_state] for a block with cross-attention, which is causal then.
TORCHWHISPER_API at::Tensor recorded_block(const at::Tensor& x, const at::Tensor& features,
                                           const BlockWeights& weights, std::int64_t n_head);

}  // namespace torchwhisper::nn
