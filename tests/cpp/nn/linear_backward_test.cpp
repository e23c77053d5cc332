#include "csrc/nn/linear_backward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

TEST(LinearBackward, EqualsAutograd) {
  const at::Tensor x = at::randn({5, 3}).requires_grad_();
  const Affine layer{at::randn({4, 3}).requires_grad_(), at::randn({4}).requires_grad_()};
  const at::Tensor grad = at::randn({5, 4});
  const auto expected = torch::autograd::grad({functional::linear(x, layer.weight, layer.bias)},
                                              {x, layer.weight, layer.bias}, {grad});
  const at::NoGradGuard no_grad;
  const Affine found = linear_backward(grad, x, layer);
  EXPECT_TRUE(input_gradient(grad, layer.weight, at::kFloat).equal(expected[0]));
  EXPECT_TRUE(found.weight.equal(expected[1]));
  EXPECT_TRUE(found.bias.equal(expected[2]));
}

TEST(LinearBackward, JoinedLayersGetTheirOwn) {
  const at::Tensor x = at::randn({5, 3});
  const Affine first{at::randn({4, 3}).requires_grad_(), at::randn({4}).requires_grad_()};
  const Affine second{at::randn({4, 3}).requires_grad_(), {}};
  const at::Tensor grads = at::randn({5, 8});
  const at::NoGradGuard no_grad;
  const auto found = joint_linear_backward(grads, x, {first, second});
  EXPECT_TRUE(found[0].weight.allclose(linear_backward(grads.narrow(1, 0, 4), x, first).weight));
  EXPECT_TRUE(found[0].bias.allclose(grads.narrow(1, 0, 4).sum(0)));
  EXPECT_TRUE(found[1].weight.allclose(linear_backward(grads.narrow(1, 4, 4), x, second).weight));
  EXPECT_FALSE(found[1].bias.defined());
}

TEST(LinearBackward, ComputesOnlyWhatIsWanted) {
  const Affine found = linear_backward(at::randn({5, 4}), at::randn({5, 3}),
                                       {at::randn({4, 3}), at::randn({4}).requires_grad_()});
  EXPECT_FALSE(found.weight.defined());
  EXPECT_TRUE(found.bias.defined());
}

TEST(LinearBackward, GradientsHaveTheTypeOfTheParameters) {
  const Affine layer{at::randn({4, 3}).requires_grad_(), at::randn({4}).requires_grad_()};
  const Affine found =
      linear_backward(at::randn({5, 4}).to(at::kBFloat16), at::randn({5, 3}).to(at::kBFloat16), layer);
  EXPECT_EQ(found.weight.scalar_type(), at::kFloat);
  EXPECT_EQ(found.bias.scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace torchwhisper::nn
