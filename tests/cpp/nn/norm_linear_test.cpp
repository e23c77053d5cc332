#include "csrc/nn/norm_linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

TEST(NormLinear, EqualsTheLayersOneByOne) {
  const at::Tensor x = at::randn({2, 5, 8}).requires_grad_();
  const Affine norm{at::randn({8}).requires_grad_(), at::randn({8}).requires_grad_()};
  const std::vector<Affine> layers{{at::randn({6, 8}).requires_grad_(), at::randn({6}).requires_grad_()},
                                   {at::randn({3, 8}).requires_grad_(), {}}};
  const std::vector<at::Tensor> inputs{
      x, norm.weight, norm.bias, layers[0].weight, layers[0].bias, layers[1].weight};
  const std::vector<at::Tensor> grads{at::randn({2, 5, 6}), at::randn({2, 5, 3})};

  const at::Tensor normed = functional::layer_norm(x, norm.weight, norm.bias);
  const std::vector<at::Tensor> expected{functional::linear(normed, layers[0].weight, layers[0].bias),
                                         functional::linear(normed, layers[1].weight, {})};
  const auto found = norm_linear(x, norm, layers);
  const auto expected_gradients = torch::autograd::grad(expected, inputs, grads);
  const auto found_gradients = torch::autograd::grad(found, inputs, grads);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(found[i].equal(expected[i])) << i;
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(found_gradients[i].equal(expected_gradients[i])) << i;
  }
}

TEST(NormLinear, AnUnusedOutputCountsAsZero) {
  const at::Tensor x = at::randn({5, 8}).requires_grad_();
  const std::vector<Affine> layers{{at::randn({6, 8}), {}}, {at::randn({3, 8}), {}}};
  const auto y = norm_linear(x, {at::ones({8}), at::zeros({8})}, layers);
  const auto one = torch::autograd::grad({y[1].sum()}, {x})[0];
  const at::Tensor normed = functional::layer_norm(x, at::ones({8}), at::zeros({8}));
  const auto expected = torch::autograd::grad({functional::linear(normed, layers[1].weight, {}).sum()}, {x});
  EXPECT_TRUE(one.allclose(expected[0]));
}

}  // namespace
}  // namespace torchwhisper::nn
