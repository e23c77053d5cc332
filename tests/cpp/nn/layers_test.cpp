#include "csrc/nn/layers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::relative_error;

TEST(Layers, AdoptTheTensorsThemselves) {
  const at::Tensor weight = at::randn({3, 2}).requires_grad_();
  const at::Tensor bias = at::randn({3});
  const NamedTensors tensors{{"weight", weight}, {"bias", bias}};
  Linear linear(Weights(tensors), 2, 3);
  EXPECT_TRUE(linear->named_parameters()["weight"].is_same(weight));
  EXPECT_TRUE(linear->weight.requires_grad());
  EXPECT_FALSE(linear->bias.requires_grad());
}

TEST(Layers, LiveLinearFollowsItsWeights) {
  const NamedTensors tensors{{"weight", at::randn({3, 2})}, {"bias", at::randn({3})}};
  Linear linear(Weights(tensors), 2, 3);
  tensors.at("weight").fill_(2.0);
  tensors.at("bias").fill_(1.0);
  EXPECT_TRUE(linear(at::ones({1, 2})).equal(at::full({1, 3}, 5.0)));
}

TEST(Layers, PreparedLinearServesItsTypeOnly) {
  const NamedTensors tensors{{"weight", at::randn({3, 2})}, {"bias", at::randn({3})}};
  Linear linear(Weights(tensors), 2, 3);
  WeightArena arena;
  linear->prepare(at::kFloat, Rows::kFew, arena);
  const at::Tensor x = at::randn({4, 2});
  const at::Tensor before = linear(x);
  tensors.at("weight").zero_();
  tensors.at("bias").zero_();
  EXPECT_TRUE(linear(x).equal(before));
  EXPECT_EQ(linear(x.to(at::kDouble)).abs().max().item<double>(), 0.0);
}

TEST(Layers, ConvolutionIsExact) {
  const NamedTensors tensors{{"weight", at::randn({4, 3, 3})}, {"bias", at::randn({4})}};
  const at::Tensor x = at::randn({2, 3, 9});
  const at::Tensor padded = at::constant_pad_nd(x.to(at::kDouble), {1, 1});
  for (const std::int64_t stride : {1, 2}) {
    const at::Tensor y = Conv1d(Weights(tensors), 3, 4, stride)(x);
    for (std::int64_t t = 0; t < y.size(2); ++t) {
      const at::Tensor window = padded.slice(2, t * stride, t * stride + 3);
      const at::Tensor exact =
          at::einsum("bik,oik->bo", {window, tensors.at("weight").to(at::kDouble)}) + tensors.at("bias");
      EXPECT_LT(relative_error(y.select(2, t), exact), 1e-5);
    }
  }
}

}  // namespace
}  // namespace torchwhisper::nn
