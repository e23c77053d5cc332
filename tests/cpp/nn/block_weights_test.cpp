#include "csrc/nn/block_weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "csrc/nn/block.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

TEST(BlockWeights, UnflattenIsTheInverseOfFlatten) {
  for (const bool cross : {false, true}) {
    NamedTensors tensors;
    torchwhisper::testing::add_block(tensors, "block", 8, cross);
    const BlockWeights weights = ResidualAttentionBlock(Weights(tensors)["block"], 8, 2, cross)->weights();
    const auto flat = weights.flatten();
    EXPECT_EQ(flat.size(), tensors.size());
    const BlockWeights again = BlockWeights::unflatten(flat, cross);
    EXPECT_FALSE(again.attn.key.bias.defined());
    EXPECT_TRUE(again.mlp.contract.bias.is_same(weights.mlp.contract.bias));
    const auto flat_again = again.flatten();
    for (std::size_t i = 0; i < flat.size(); ++i) {
      EXPECT_TRUE(flat_again[i].is_same(flat[i])) << i;
    }
  }
}

}  // namespace
}  // namespace torchwhisper::nn
