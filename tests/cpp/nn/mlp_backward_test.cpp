#include "csrc/nn/mlp_backward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "csrc/nn/functional.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::relative_error;

at::Tensor leaf(at::IntArrayRef shape) { return at::randn(shape).requires_grad_(); }

TEST(MlpBackward, EqualsAutogradWhateverTheTapeLacks) {
  const MlpWeights weights{{leaf({8}), leaf({8})}, {leaf({32, 8}), leaf({32})}, {leaf({8, 32}), leaf({8})}};
  const at::Tensor x = leaf({2, 5, 8});
  const at::Tensor grad = at::randn({2, 5, 8});
  const at::Tensor normed = functional::layer_norm(x, weights.norm.weight, weights.norm.bias);
  const at::Tensor wide = at::gelu(functional::linear(normed, weights.expand.weight, weights.expand.bias));
  const at::Tensor y = x + functional::linear(wide, weights.contract.weight, weights.contract.bias);
  const auto expected = torch::autograd::grad(
      {y}, {x, weights.norm.weight, weights.expand.weight, weights.contract.bias}, {grad});

  const at::NoGradGuard by_hand;
  const MlpCall call{x, weights, weights.expand, weights.contract};
  const MlpTape whole = mlp_forward(call);
  EXPECT_LT(relative_error(mlp_output(call, whole), y), 1e-6);
  const MlpTape without_expanded{};
  const MlpTape without_activated{{}, whole.expanded, {}};
  for (const MlpTape& tape : {whole, without_activated, without_expanded}) {
    const MlpGradients found = mlp_backward(grad, call, tape, /*wants_x=*/true);
    EXPECT_LT(relative_error(found.x, expected[0]), 1e-5);
    EXPECT_LT(relative_error(found.weights.norm.weight, expected[1]), 1e-5);
    EXPECT_LT(relative_error(found.weights.expand.weight, expected[2]), 1e-5);
    EXPECT_LT(relative_error(found.weights.contract.bias, expected[3]), 1e-5);
  }
}

}  // namespace
}  // namespace torchwhisper::nn
