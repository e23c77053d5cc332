#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/block.h"
#include "csrc/nn/weights.h"

namespace torchwhisper::model {

/// Makes the blocks "blocks.0", "blocks.1", … of `parent`, as upstream's ModuleList does.
TORCHWHISPER_API std::vector<nn::ResidualAttentionBlock> register_blocks(
    torch::nn::Module& parent, const nn::Weights& given, std::int64_t n_layer, std::int64_t n_state,
    std::int64_t n_head, bool cross_attention);

}  // namespace torchwhisper::model
