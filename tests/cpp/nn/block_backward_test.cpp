#include "csrc/nn/block_backward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <vector>

#include "csrc/nn/recorded_block.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::relative_error;

constexpr std::int64_t kState = 12;
constexpr std::int64_t kHeads = 3;

// Parameters of a block, none of which requires gradients.
std::vector<at::Tensor> random_parameters(bool cross) {
  const auto square = [] { return at::randn({kState, kState}) * 0.3; };
  const auto row = [](std::int64_t n) { return at::randn({n}) * 0.3; };
  std::vector<at::Tensor> all;
  for (int part = 0; part < (cross ? 2 : 1); ++part) {
    for (const at::Tensor& tensor : {1 + row(kState), row(kState), square(), row(kState), square(), square(),
                                     row(kState), square(), row(kState)}) {
      all.push_back(tensor);
    }
  }
  for (const at::Tensor& tensor : {1 + row(kState), row(kState), at::randn({4 * kState, kState}) * 0.3,
                                   row(4 * kState), at::randn({kState, 4 * kState}) * 0.3, row(kState)}) {
    all.push_back(tensor);
  }
  return all;
}

// x, the features if there are any, and the parameters.
std::vector<at::Tensor> random_inputs(bool cross) {
  std::vector<at::Tensor> inputs{at::randn({2, 6, kState})};
  if (cross) {
    inputs.push_back(at::randn({2, 9, kState}));
  }
  const auto parameters = random_parameters(cross);
  inputs.insert(inputs.end(), parameters.begin(), parameters.end());
  return inputs;
}

BlockCall call_of(const std::vector<at::Tensor>& inputs, bool cross) {
  const auto weights = BlockWeights::unflatten(at::TensorList(inputs).slice(cross ? 2 : 1), cross);
  return {inputs[0], cross ? inputs[1] : at::Tensor(), weights, product_weights(weights, at::kFloat), kHeads};
}

std::vector<at::Tensor> by_hand(const std::vector<at::Tensor>& inputs, bool cross, const at::Tensor& grad,
                                bool drop_what_is_computed_again = false) {
  const at::NoGradGuard no_grad;
  const BlockCall call = call_of(inputs, cross);
  BlockTape tape = block_forward(call);
  if (drop_what_is_computed_again) {
    tape.self.norm = tape.cross.norm = tape.mlp.norm = {};
    tape.mlp.expanded.reset();
    tape.mlp.activated.reset();
  }
  const BlockGradients found = block_backward(grad, call, tape);
  std::vector<at::Tensor> all{found.x};
  if (cross) {
    all.push_back(found.features);
  }
  const auto weights = found.weights.flatten();
  all.insert(all.end(), weights.begin(), weights.end());
  return all;
}

TEST(BlockBackward, EqualsAutograd) {
  for (const bool cross : {false, true}) {
    auto inputs = random_inputs(cross);
    for (at::Tensor& input : inputs) {
      input.requires_grad_();
    }
    const BlockCall call = call_of(inputs, cross);
    const at::Tensor y = recorded_block(call.x, call.features, call.parameters, kHeads);
    const at::Tensor grad = at::randn(y.sizes());
    const auto expected = torch::autograd::grad({y}, inputs, {grad});
    EXPECT_LT(relative_error(block_output(call, block_forward(call)), y), 1e-6);
    for (const bool again : {false, true}) {
      const auto found = by_hand(inputs, cross, grad, again);
      ASSERT_EQ(found.size(), expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_LT(relative_error(found[i], expected[i]), 2e-6) << cross << again << i;
      }
    }
  }
}

// Each alone, so that no gradient is lost on its way because something else needs none.
TEST(BlockBackward, GivesWhatIsWanted) {
  for (const bool cross : {false, true}) {
    auto inputs = random_inputs(cross);
    const at::Tensor grad = at::randn(inputs[0].sizes());
    for (at::Tensor& input : inputs) {
      input.requires_grad_();
    }
    const auto all = by_hand(inputs, cross, grad);
    for (std::size_t only = 0; only < inputs.size(); ++only) {
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        inputs[i].set_requires_grad(i == only);
      }
      const auto one = by_hand(inputs, cross, grad);
      for (std::size_t i = 0; i < one.size(); ++i) {
        EXPECT_EQ(one[i].defined(), i == only) << cross << only << i;
      }
      EXPECT_LT(relative_error(one[only], all[only]), 1e-6) << cross << only;
    }
  }
}

TEST(BlockBackward, ATapeSurvivesFlattening) {
  const auto inputs = random_inputs(/*cross=*/true);
  const BlockTape tape = block_forward(call_of(inputs, /*cross=*/true));
  const BlockTape again =
      BlockTape::unflatten(tape.flatten(), tape.self.attended.kernel, tape.cross.attended.kernel);
  EXPECT_TRUE(again.mlp.activated.is_same(tape.mlp.activated));
  EXPECT_TRUE(again.cross.attended.logsumexp.is_same(tape.cross.attended.logsumexp));
  EXPECT_EQ(again.self.attended.kernel, tape.self.attended.kernel);
}

}  // namespace
}  // namespace torchwhisper::nn
