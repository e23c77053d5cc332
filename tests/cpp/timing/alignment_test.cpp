#include "csrc/timing/alignment.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace torchwhisper::timing {
namespace {

constexpr std::int64_t kSotLength = 3;

/// Scores of `heads` heads over start sequence, <|notimestamps|>, text and end token, where each token
/// looks at `width` frames of its own, one token after the other.
at::Tensor staircase(std::int64_t heads, std::int64_t tokens, std::int64_t width) {
  at::Tensor qk = at::zeros({heads, tokens, tokens * width});
  for (std::int64_t token = 0; token < tokens; ++token) {
    qk.select(1, token).narrow(1, token * width, width).fill_(8);
  }
  return qk;
}

TEST(Align, FindsTheFramesThatEachTokenLooksAt) {
  common::Control control;
  constexpr std::int64_t kWidth = 12;
  constexpr std::int64_t kTokens = 9;
  const at::Tensor qk = staircase(2, kTokens, kWidth);
  const at::Tensor path = align(qk, {kSotLength, qk.size(2)}, control);
  // Each text token starts where its frames start; the first row takes what lies before them.
  for (std::int64_t k = 1; k < path.size(1); ++k) {
    const auto row = path[0][k].item<std::int64_t>();
    if (row != path[0][k - 1].item<std::int64_t>()) {
      EXPECT_EQ(path[1][k].item<std::int64_t>(), (row + kSotLength) * kWidth);
    }
  }
  EXPECT_EQ(path[0][-1].item<std::int64_t>(), kTokens - kSotLength - 2);
}

TEST(Align, LooksAtTheAudioOnly) {
  common::Control control;
  const at::Tensor qk = at::randn({2, 7, 60});
  const at::Tensor loud_padding = qk.clone();
  loud_padding.narrow(2, 40, 20).fill_(100);
  EXPECT_TRUE(
      at::equal(align(qk, {kSotLength, 40}, control), align(loud_padding, {kSotLength, 40}, control)));
  EXPECT_EQ(alignment_matrix(qk, {kSotLength, 40}, control).sizes(), at::IntArrayRef({3, 40}));
  EXPECT_EQ(alignment_matrix(qk, {kSotLength, 1000}, control).sizes(), at::IntArrayRef({3, 60}));
}

TEST(Align, AnswersForFewFramesAndOneToken) {
  common::Control control;
  const at::Tensor qk = at::randn({2, kSotLength + 3, 60});
  for (std::int64_t frames = 0; frames <= 8; ++frames) {
    const at::Tensor path = align(qk, {kSotLength, frames}, control);
    EXPECT_EQ(path[0][-1].item<std::int64_t>(), 1);
    EXPECT_EQ(path[1][-1].item<std::int64_t>(), frames - 1);
  }
}

TEST(Align, AnswersWhereAllTokensAttendAlike) {
  common::Control control;
  // The deviation over the tokens is zero, so that every weight becomes NaN.
  const at::Tensor path = align(at::zeros({1, kSotLength + 4, 10}), {kSotLength, 10}, control);
  EXPECT_EQ(path[0][-1].item<std::int64_t>(), 2);
  EXPECT_EQ(path[1][-1].item<std::int64_t>(), 9);
}

TEST(Align, LeavesItsInputAlone) {
  common::Control control;
  const at::Tensor qk = at::randn({2, 7, 60});
  const at::Tensor before = qk.clone();
  align(qk, {kSotLength, 60}, control);
  EXPECT_TRUE(at::equal(qk, before));
}

TEST(Align, RefusesScoresThatCannotBeAligned) {
  common::Control control;
  EXPECT_THROW(align(at::zeros({0, 7, 60}), {kSotLength, 60}, control), c10::ValueError);
  EXPECT_THROW(align(at::zeros({7, 60}), {kSotLength, 60}, control), c10::ValueError);
  EXPECT_THROW(align(at::zeros({1, 3, 60}), {kSotLength, 60}, control), c10::ValueError);
  EXPECT_THROW(align(at::zeros({1, 7, 60}), {kSotLength, -1}, control), c10::ValueError);
}

TEST(Align, CanBeCancelled) {
  common::Control control;
  control.cancel();
  EXPECT_THROW(align(at::zeros({1, 7, 60}), {kSotLength, 60}, control), common::Cancelled);
}

TEST(TokenProbabilities, AreASoftmaxOverTheTextTokens) {
  // Tokens from 3 on are not text: their logits do not count.
  const at::Tensor logits = at::zeros({5, 6});
  logits[kSotLength][1] = std::log(2.F);
  logits[kSotLength][4] = 50;
  const std::vector<double> got = token_probabilities(logits, {1, 2}, kSotLength, 3);
  EXPECT_THAT(got, testing::ElementsAre(testing::DoubleNear(0.5, 1e-6), testing::DoubleNear(1.0 / 3, 1e-6)));
  EXPECT_TRUE(token_probabilities(logits, {}, kSotLength, 3).empty());
}

TEST(TokenProbabilities, RefuseWhatIsOutOfRange) {
  const at::Tensor logits = at::zeros({5, 6});
  EXPECT_THROW(token_probabilities(logits, {3}, kSotLength, 3), c10::IndexError);
  EXPECT_THROW(token_probabilities(logits, {-1}, kSotLength, 3), c10::IndexError);
  EXPECT_THROW(token_probabilities(logits, {0, 0, 0}, kSotLength, 3), c10::ValueError);
}

}  // namespace
}  // namespace torchwhisper::timing
