#include "csrc/model/block_list.h"

#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::model {
namespace {

TEST(BlockList, NamesTheBlocksAsUpstreamDoes) {
  nn::NamedTensors tensors;
  for (const char* name : {"0", "1", "2"}) {
    testing::add_block(tensors, name, 8, /*cross=*/false);
  }
  torch::nn::Module parent;
  const auto blocks = register_blocks(parent, nn::Weights(tensors), 3, 8, 2, /*cross_attention=*/false);
  ASSERT_EQ(blocks.size(), 3U);
  EXPECT_TRUE(parent.named_parameters()["blocks.2.mlp.0.weight"].is_same(tensors.at("2.mlp.0.weight")));
}

}  // namespace
}  // namespace torchwhisper::model
