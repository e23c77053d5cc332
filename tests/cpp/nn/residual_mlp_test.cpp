#include "csrc/nn/residual_mlp.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

constexpr std::int64_t kState = 8;

at::Tensor leaf(at::IntArrayRef shape) { return at::randn(shape).requires_grad_(); }

MlpWeights random_weights() {
  return {{leaf({kState}), leaf({kState})},
          {leaf({4 * kState, kState}), leaf({4 * kState})},
          {leaf({kState, 4 * kState}), leaf({kState})}};
}

std::vector<at::Tensor> inputs_of(const at::Tensor& x, const MlpWeights& weights) {
  return {x,
          weights.norm.weight,
          weights.norm.bias,
          weights.expand.weight,
          weights.expand.bias,
          weights.contract.weight,
          weights.contract.bias};
}

at::Tensor spelled_out(const at::Tensor& x, const MlpWeights& weights) {
  const at::Tensor normed = functional::layer_norm(x, weights.norm.weight, weights.norm.bias);
  const at::Tensor wide = at::gelu(functional::linear(normed, weights.expand.weight, weights.expand.bias));
  return x + functional::linear(wide, weights.contract.weight, weights.contract.bias);
}

TEST(ResidualMlp, EqualsTheLayersOneByOne) {
  const at::Tensor x = leaf({2, 5, kState});
  const MlpWeights weights = random_weights();
  const at::Tensor grad = at::randn({2, 5, kState});
  const at::Tensor expected = spelled_out(x, weights);
  const auto expected_gradients = torch::autograd::grad({expected}, inputs_of(x, weights), {grad});
  for (const bool keep_product : {false, true}) {
    const at::Tensor found = residual_mlp(x, weights, keep_product);
    EXPECT_TRUE(found.equal(expected));
    const auto gradients = torch::autograd::grad({found}, inputs_of(x, weights), {grad});
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      EXPECT_TRUE(gradients[i].equal(expected_gradients[i])) << keep_product << i;
    }
  }
}

TEST(ResidualMlp, GivesWhatIsWanted) {
  const at::Tensor x = at::randn({2, 5, kState});
  const MlpWeights weights = random_weights();
  const at::NoGradGuard as_in_backward;
  const at::Tensor grad = at::randn({2, 5, kState});
  const auto autocast = Autocast::current(at::kCPU);
  const auto all =
      residual_mlp_backward(grad, x, {}, weights, {true, true, true, true, true, true, true}, autocast);
  for (std::size_t only = 0; only < all.size(); ++only) {
    std::array<bool, 7> wanted{};
    wanted[only] = true;
    const auto one = residual_mlp_backward(grad, x, {}, weights, wanted, autocast);
    for (std::size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].defined(), i == only);
    }
    EXPECT_TRUE(one[only].equal(all[only])) << only;
  }
}

}  // namespace
}  // namespace torchwhisper::nn
