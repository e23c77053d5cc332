#include "csrc/nn/product_weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "csrc/nn/block.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::relative_error;

BlockWeights random_weights() {
  NamedTensors tensors;
  torchwhisper::testing::add_block(tensors, "block", 8, /*cross=*/true);
  return ResidualAttentionBlock(Weights(tensors)["block"], 8, 2, true)->weights();
}

TEST(ProductWeights, JoinsTheLayersOfOneInput) {
  const BlockWeights given = random_weights();
  const ProductWeights made = product_weights(given, at::kFloat);
  const at::Tensor x = at::randn({3, 8});
  const auto linear = [&](const Affine& layer) { return at::linear(x, layer.weight, layer.bias); };
  const at::Tensor own =
      at::cat({linear(given.attn.query), linear(given.attn.key), linear(given.attn.value)}, 1);
  EXPECT_LT(relative_error(linear(made.attn.of_x), own), 1e-6);
  const at::Tensor of_features = at::cat({linear(given.cross_attn->key), linear(given.cross_attn->value)}, 1);
  EXPECT_LT(relative_error(linear(made.cross_attn->of_features), of_features), 1e-6);
  EXPECT_TRUE(made.cross_attn->of_x.weight.is_same(given.cross_attn->query.weight));
  EXPECT_TRUE(made.expand.weight.is_same(given.mlp.expand.weight));
}

TEST(ProductWeights, CastsTheRest) {
  const BlockWeights given = random_weights();
  const ProductWeights made = product_weights(given, at::kBFloat16);
  EXPECT_EQ(made.attn.of_x.bias.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(made.contract.weight.equal(given.mlp.contract.weight.to(at::kBFloat16)));
  EXPECT_TRUE(made.cross_attn->out.bias.equal(given.cross_attn->out.bias.to(at::kBFloat16)));
}

TEST(ProductWeights, UnflattenIsTheInverseOfFlatten) {
  const ProductWeights made = product_weights(random_weights(), at::kHalf);
  const ProductWeights again = ProductWeights::unflatten(made.flatten(), /*cross_attention=*/true);
  EXPECT_TRUE(again.cross_attn->of_features.weight.is_same(made.cross_attn->of_features.weight));
  EXPECT_FALSE(again.attn.of_features.weight.defined());
  EXPECT_TRUE(again.contract.bias.is_same(made.contract.bias));
}

}  // namespace
}  // namespace torchwhisper::nn
