#include "csrc/nn/recomputed_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

TEST(RecomputedNorm, EqualsAutogradAndLeavesTheInputsAlone) {
  const at::Tensor x = at::randn({2, 5, 8}).requires_grad_();
  const Affine norm{at::randn({8}).requires_grad_(), at::randn({8}).requires_grad_()};
  const at::Tensor grad = at::randn({2, 5, 8});
  const at::Tensor y = functional::layer_norm(x, norm.weight, norm.bias);
  const auto expected = torch::autograd::grad({y}, {x, norm.weight, norm.bias}, {grad});

  const at::NoGradGuard as_in_backward;
  const RecomputedNorm again(x, norm, {true, true, true}, Autocast::current(at::kCPU));
  EXPECT_TRUE(again.output().equal(y));
  const auto found = again.backward(grad);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(found[i].equal(expected[i])) << i;
  }
  EXPECT_FALSE(x.grad().defined());
}

TEST(RecomputedNorm, GivesWhatIsWanted) {
  const Affine norm{at::randn({8}), at::randn({8})};
  const RecomputedNorm some(at::randn({5, 8}), norm, {false, false, true}, Autocast::current(at::kCPU));
  const auto found = some.backward(at::ones({5, 8}));
  EXPECT_FALSE(found[0].defined());
  EXPECT_FALSE(found[1].defined());
  EXPECT_TRUE(found[2].equal(at::full({8}, 5.0)));
  const RecomputedNorm none(at::randn({5, 8}), norm, {}, Autocast::current(at::kCPU));
  EXPECT_FALSE(none.wants_any());
  EXPECT_FALSE(none.backward(at::ones({5, 8}))[0].defined());
}

}  // namespace
}  // namespace torchwhisper::nn
