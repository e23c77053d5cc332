#include "csrc/nn/layer_norm_backward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

TEST(LayerNormBackward, EqualsAutograd) {
  const at::Tensor x = at::randn({2, 5, 8}).requires_grad_();
  const Affine norm{at::randn({8}).requires_grad_(), at::randn({8}).requires_grad_()};
  const at::Tensor grad = at::randn({2, 5, 8});
  const at::Tensor y = functional::layer_norm(x, norm.weight, norm.bias);
  const auto expected = torch::autograd::grad({y}, {x, norm.weight, norm.bias}, {grad});

  const at::NoGradGuard as_in_backward;
  const Normed normed = normalise(x, norm, at::kFloat);
  EXPECT_TRUE(normed.out.equal(y));
  const auto found = layer_norm_backward(grad.view({10, 8}), x, normed, norm, /*wants_x=*/true);
  EXPECT_TRUE(found.x.equal(expected[0]));
  EXPECT_TRUE(found.weights.weight.equal(expected[1]));
  EXPECT_TRUE(found.weights.bias.equal(expected[2]));
}

TEST(LayerNormBackward, GivesWhatIsWantedInItsType) {
  const Affine norm{at::randn({8}), at::randn({8}).to(at::kHalf).requires_grad_()};
  const at::Tensor x = at::randn({5, 8}).to(at::kBFloat16);
  const Normed normed = normalise(x, norm, at::kHalf);
  EXPECT_EQ(normed.out.scalar_type(), at::kHalf);
  const auto found = layer_norm_backward(at::ones({5, 8}), x, normed, norm, /*wants_x=*/false);
  EXPECT_FALSE(found.x.defined());
  EXPECT_FALSE(found.weights.weight.defined());
  EXPECT_TRUE(found.weights.bias.equal(at::full({8}, 5.0, at::kHalf)));
}

}  // namespace
}  // namespace torchwhisper::nn
