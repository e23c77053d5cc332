#include "csrc/nn/checkpoint.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>
#include <vector>

#include "csrc/nn/block.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::add_block;
using torchwhisper::testing::relative_error;

constexpr std::int64_t kState = 12;
constexpr std::int64_t kHeads = 3;
constexpr CheckpointPolicy kPolicies[] = {CheckpointPolicy::kSelective, CheckpointPolicy::kMlp,
                                          CheckpointPolicy::kBlock};

ResidualAttentionBlock make_block(bool cross) {
  NamedTensors tensors;
  add_block(tensors, "block", kState, cross);
  for (auto& [name, tensor] : tensors) {
    tensor.requires_grad_();
  }
  return ResidualAttentionBlock(Weights(tensors)["block"], kState, kHeads, cross);
}

std::vector<at::Tensor> gradients(ResidualAttentionBlock& block, const at::Tensor& x,
                                  const at::Tensor& features, const BlockTraining& training) {
  const at::Tensor y = block->forward_training(x, features, training);
  std::vector<at::Tensor> inputs = block->parameters();
  return torch::autograd::grad({y.square().sum()}, inputs);
}

TEST(Checkpoint, EveryPolicyGivesTheGradientsOfNone) {
  for (const bool cross : {false, true}) {
    ResidualAttentionBlock block = make_block(cross);
    const at::Tensor x = at::randn({2, 6, kState});
    const at::Tensor features = cross ? at::randn({2, 9, kState}) : at::Tensor();
    const auto expected = gradients(block, x, features, {});
    for (const CheckpointPolicy policy : kPolicies) {
      const auto found = gradients(block, x, features, {policy});
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(found[i].equal(expected[i])) << i;
      }
    }
  }
}

TEST(Checkpoint, NoneIsTheBlock) {
  ResidualAttentionBlock block = make_block(/*cross=*/true);
  const at::Tensor x = at::randn({2, 6, kState});
  const at::Tensor features = at::randn({2, 9, kState});
  EXPECT_LT(relative_error(block->forward_training(x, features, {}), block->decode(x, features)), 1e-7);
}

TEST(Checkpoint, OnlyTheParametersNeedGradients) {
  ResidualAttentionBlock block = make_block(/*cross=*/false);
  for (const CheckpointPolicy policy : kPolicies) {
    EXPECT_TRUE(block->forward_training(at::randn({1, 4, kState}), {}, {policy}).requires_grad());
  }
}

TEST(Checkpoint, RefusesDoubleBackward) {
  ResidualAttentionBlock block = make_block(/*cross=*/false);
  for (const CheckpointPolicy policy : kPolicies) {
    const at::Tensor y = block->forward_training(at::randn({1, 4, kState}), {}, {policy});
    try {
      torch::autograd::grad({y.sum()}, block->parameters(), {}, /*retain_graph=*/true, /*create_graph=*/true);
      ADD_FAILURE() << "accepted";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("first-order gradients only"));
    }
  }
}

TEST(Checkpoint, DrawsTheSameDepthAgainAndLeavesTheGenerator) {
  ResidualAttentionBlock block = make_block(/*cross=*/false);
  const at::Tensor x = at::randn({16, 4, kState});
  at::manual_seed(1);
  const auto expected = gradients(block, x, {}, {.stochastic_depth = 0.5});
  const at::Tensor next = at::rand({1});
  at::manual_seed(1);
  const auto found = gradients(block, x, {}, {.policy = CheckpointPolicy::kBlock, .stochastic_depth = 0.5});
  EXPECT_TRUE(at::rand({1}).equal(next));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_LT(relative_error(found[i], expected[i]), 1e-5);
  }
}

TEST(Checkpoint, HoldsForEveryNthBlock) {
  const BlockTraining training{CheckpointPolicy::kMlp, 3, 0.0};
  EXPECT_EQ(training.of_block(0).policy, CheckpointPolicy::kMlp);
  EXPECT_EQ(training.of_block(2).policy, CheckpointPolicy::kNone);
  EXPECT_EQ(training.of_block(3).policy, CheckpointPolicy::kMlp);
}

TEST(Checkpoint, KnowsItsPolicies) {
  EXPECT_EQ(to_checkpoint_policy(""), CheckpointPolicy::kNone);
  EXPECT_EQ(to_checkpoint_policy("block"), CheckpointPolicy::kBlock);
  EXPECT_THROW(to_checkpoint_policy("blocks"), c10::ValueError);
}

}  // namespace
}  // namespace torchwhisper::nn
