#include "csrc/nn/linear_backward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

TEST(LinearBackward, EqualsAutograd) {
  const at::Tensor x = at::randn({2, 5, 3}).requires_grad_();
  const Affine layer{at::randn({4, 3}).requires_grad_(), at::randn({4}).requires_grad_()};
  const at::Tensor grad = at::randn({2, 5, 4});
  const auto expected = torch::autograd::grad({functional::linear(x, layer.weight, layer.bias)},
                                              {x, layer.weight, layer.bias}, {grad});
  const at::NoGradGuard no_grad;
  const auto found = linear_backward(grad, x, layer, {.x = true, .weight = true, .bias = true});
  EXPECT_TRUE(found.x.equal(expected[0]));
  EXPECT_TRUE(found.weight.equal(expected[1]));
  EXPECT_TRUE(found.bias.equal(expected[2]));
}

TEST(LinearBackward, ComputesOnlyWhatIsWanted) {
  const Affine layer{at::randn({4, 3}), {}};
  const auto found =
      linear_backward(at::randn({5, 4}), {}, layer, {.x = true, .weight = false, .bias = false});
  EXPECT_TRUE(found.x.defined());
  EXPECT_FALSE(found.weight.defined());
  EXPECT_FALSE(found.bias.defined());
}

TEST(LinearBackward, GradientsHaveTheTypeOfTheParameters) {
  const Affine layer{at::randn({4, 3}), at::randn({4})};
  const auto found = linear_backward(at::randn({5, 4}).to(at::kBFloat16), at::randn({5, 3}), layer,
                                     {.x = true, .weight = true, .bias = true});
  EXPECT_EQ(found.x.scalar_type(), at::kBFloat16);
  EXPECT_EQ(found.weight.scalar_type(), at::kFloat);
  EXPECT_EQ(found.bias.scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace torchwhisper::nn
