#include "csrc/model/block_list.h"

#include <memory>
#include <string>

namespace torchwhisper::model {

std::vector<nn::ResidualAttentionBlock> register_blocks(torch::nn::Module& parent, const nn::Weights& given,
                                                        std::int64_t n_layer, std::int64_t n_state,
                                                        std::int64_t n_head, bool cross_attention) {
  const auto list = parent.register_module("blocks", std::make_shared<torch::nn::Module>());
  std::vector<nn::ResidualAttentionBlock> blocks;
  blocks.reserve(static_cast<std::size_t>(n_layer));
  for (std::int64_t i = 0; i < n_layer; ++i) {
    const std::string name = std::to_string(i);
    blocks.emplace_back(list->register_module(
        name, nn::ResidualAttentionBlock(given[name], n_state, n_head, cross_attention)));
  }
  return blocks;
}

}  // namespace torchwhisper::model
