#include "csrc/nn/attention_backward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "csrc/nn/block.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

// The gradients themselves are compared with autograd's in block_backward_test.cpp.
TEST(AttentionBackward, ComputesTheNormAgainWhereTheTapeLacksIt) {
  NamedTensors tensors;
  torchwhisper::testing::add_block(tensors, "block", 8, /*cross=*/true);
  for (auto& [name, tensor] : tensors) {
    tensor.requires_grad_();
  }
  const Weights named(tensors);
  ResidualAttentionBlock block(named["block"], 8, 2, true);
  const BlockWeights weights = block->weights();
  const at::NoGradGuard by_hand;
  const ProductWeights products = product_weights(weights, at::kFloat);
  const at::Tensor x = at::randn({2, 5, 8});
  const at::Tensor features = at::randn({2, 7, 8});
  const AttentionCall call{x, features, *weights.cross_attn, *products.cross_attn, 2, /*causal=*/false};
  AttentionTape tape = attention_forward(call);
  const at::Tensor grad = at::randn({2, 5, 8});
  const auto expected = attention_backward(grad, call, tape, /*wants_x=*/true, /*wants_features=*/true);
  EXPECT_EQ(expected.features.sizes(), features.sizes());
  tape.norm = {};
  const auto found = attention_backward(grad, call, tape, /*wants_x=*/true, /*wants_features=*/false);
  EXPECT_TRUE(found.x.equal(expected.x));
  EXPECT_TRUE(found.weights.query.weight.equal(expected.weights.query.weight));
  EXPECT_FALSE(found.features.defined());
}

}  // namespace
}  // namespace torchwhisper::nn
