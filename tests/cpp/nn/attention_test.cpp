#include "csrc/nn/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "csrc/nn/functional.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::add_attention;
using torchwhisper::testing::relative_error;

constexpr std::int64_t kState = 12;
constexpr std::int64_t kHeads = 3;

MultiHeadAttention make_attention() {
  NamedTensors tensors;
  add_attention(tensors, "attn", kState);
  return MultiHeadAttention(Weights(tensors)["attn"], kState, kHeads);
}

TEST(MultiHeadAttention, TokenByTokenEqualsTheWholeSequence) {
  const at::NoGradGuard no_grad;
  MultiHeadAttention attention = make_attention();
  const at::Tensor x = at::randn({2, 7, kState});
  KeyValueCache cache(2, kHeads, 10, kState / kHeads, x);
  std::vector<at::Tensor> parts = {
      attention->cached_self_attention(x.slice(1, 0, 3), cache, x.slice(1, 0, 3))};
  for (std::int64_t t = 3; t < 7; ++t) {
    parts.push_back(attention->cached_self_attention(x.slice(1, t, t + 1), cache, x.slice(1, t, t + 1)));
  }
  EXPECT_LT(relative_error(at::cat(parts, 1), attention->self_attention(x, /*causal=*/true, x)), 1e-6);
}

TEST(MultiHeadAttention, SequencesOfOneRecordingShareItsMemory) {
  MultiHeadAttention attention = make_attention();
  const at::Tensor features = at::randn({2, 9, kState});
  const at::Tensor x = at::randn({6, 4, kState});  // three sequences each
  const at::Tensor shared = attention->cross_attention(x, features);
  const at::Tensor repeated = attention->cross_attention(x, features.repeat_interleave(3, 0));
  EXPECT_LT(relative_error(shared, repeated), 1e-6);
  EXPECT_LT(
      relative_error(attention->cached_cross_attention(x, attention->remember(features), x), x + shared),
      1e-6);
}

TEST(MultiHeadAttention, WithScoresEqualsWithout) {
  MultiHeadAttention attention = make_attention();
  const at::Tensor x = at::randn({1, 5, kState});
  const at::Tensor masked = attention->masked_self_attention(x, functional::causal_mask(5));
  EXPECT_LT(relative_error(masked, attention->self_attention(x, /*causal=*/true, at::zeros_like(x))), 1e-6);
  const at::Tensor features = at::randn({1, 9, kState});
  const KeyValueCache memory = attention->remember(features);
  const auto cross = attention->cross_attention_with_scores(x, memory, {kHeads - 1});
  EXPECT_LT(relative_error(cross.out, attention->cross_attention(x, features)), 1e-6);
  EXPECT_EQ(cross.scores.sizes(), at::IntArrayRef({1, 1, 5, 9}));
}

TEST(MultiHeadAttention, PreparedEqualsLive) {
  MultiHeadAttention attention = make_attention();
  const at::Tensor x = at::randn({2, 5, kState});
  const at::Tensor features = at::randn({2, 9, kState});
  const at::Tensor self = attention->self_attention(x, /*causal=*/false, x);
  const at::Tensor cross = attention->cross_attention(x, features);
  WeightArena arena;
  attention->prepare(at::kFloat, Rows::kMany, arena, /*attends_to_itself=*/true);
  EXPECT_LT(relative_error(attention->self_attention(x, /*causal=*/false, x), self), 2e-6);
  attention->prepare(at::kFloat, Rows::kFew, arena, /*attends_to_itself=*/false);
  EXPECT_LT(relative_error(attention->cross_attention(x, features), cross), 2e-6);
}

}  // namespace
}  // namespace torchwhisper::nn
