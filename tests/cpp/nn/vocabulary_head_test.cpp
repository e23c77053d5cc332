#include "csrc/nn/vocabulary_head.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::relative_error;

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
constexpr std::int64_t kVocab = 3000;
constexpr std::int64_t kTimestamps = 2500;

at::Tensor exact_logits(const at::Tensor& hidden, const at::Tensor& weight) {
  return at::matmul(hidden.to(at::kDouble), weight.to(at::kDouble).t());
}

TEST(VocabularyHead, TheWholeProductIsExact) {
  WeightArena arena;
  const at::Tensor weight = at::randn({517, 48});
  const at::Tensor hidden = at::randn({2, 3, 48});
  const at::Tensor logits = VocabularyHead(weight, at::kFloat, arena).forward(hidden);
  EXPECT_EQ(logits.sizes(), at::IntArrayRef({2, 3, 517}));
  EXPECT_LT(relative_error(logits, exact_logits(hidden, weight)), 2e-6);
}

// Close logits on purpose: a quarter of the vocabulary lies within the error of a draft.
at::Tensor crowded_weight() {
  const at::Tensor weight = at::randn({kVocab, 64});
  weight.slice(0, 0, kVocab / 4).copy_(at::randn({1, 64}) + at::randn({kVocab / 4, 64}) * 1e-3);
  return weight;
}

TEST(VocabularyHead, RefinedDraftsRankAsTheExactOnes) {
  WeightArena arena;
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
    for (const bool crowded : {false, true}) {
      const at::Tensor weight = (crowded ? crowded_weight() : at::randn({kVocab, 64})).to(dtype);
      const VocabularyHead head(weight, at::kFloat, arena);
      for (const std::int64_t best : {1, 6, 20}) {
        const at::Tensor hidden = at::randn({4, 64}) * 2;
        at::Tensor logits = head.draft(hidden);
        at::Tensor exact = exact_logits(hidden, weight);
        for (const at::Tensor& row : {logits, exact}) {
          row.slice(1, 10, 400).fill_(kForbidden);  // whatever was best there must not come back
        }
        head.refine(logits, hidden, {best, kTimestamps});
        const auto [values, places] = exact.topk(best);
        EXPECT_LT(relative_error(std::get<0>(logits.topk(best)), values), 2e-6);
        EXPECT_LT((logits.logsumexp(1) - exact.logsumexp(1)).abs().max().item<double>(), 2e-3);
        EXPECT_TRUE(logits.slice(1, 10, 400).isinf().all().item<bool>());
      }
    }
  }
}

TEST(VocabularyHead, WhatCountsTogetherIsExactWhereItMayWin) {
  WeightArena arena;
  at::Tensor weight = at::randn({kVocab, 64});
  const at::Tensor direction = at::randn({64});
  // Each timestamp is far below the best text, all five hundred together are not.
  weight.slice(0, kTimestamps).copy_(direction * 0.4 + at::randn({kVocab - kTimestamps, 64}) * 0.01);
  weight[7].copy_(direction * 0.5);
  const VocabularyHead head(weight, at::kFloat, arena);
  const at::Tensor hidden = (direction * 0.8).unsqueeze(0);
  at::Tensor logits = head.draft(hidden);
  head.refine(logits, hidden, {1, kTimestamps});
  const at::Tensor exact = exact_logits(hidden, weight);
  EXPECT_LT(relative_error(logits.slice(1, kTimestamps), exact.slice(1, kTimestamps)), 2e-6);
}

// So many logits lie close to the best one that all of them are computed at once.
TEST(VocabularyHead, FlatLogitsAreAllExactAndForbiddenOnesStay) {
  WeightArena arena;
  const at::Tensor weight = at::randn({kVocab, 64}) * 0.1;
  const VocabularyHead head(weight, at::kFloat, arena);
  const at::Tensor hidden = at::randn({3, 64});
  at::Tensor logits = head.draft(hidden);
  at::Tensor exact = exact_logits(hidden, weight);
  EXPECT_GT(relative_error(logits, exact), 1e-4);
  for (const at::Tensor& row : {logits, exact}) {
    row.slice(1, 10, 400).fill_(kForbidden);
  }
  head.refine(logits, hidden, {2, kTimestamps});
  EXPECT_LT(relative_error(logits.slice(1, 400), exact.slice(1, 400)), 2e-6);
  EXPECT_TRUE(logits.slice(1, 10, 400).isinf().all().item<bool>());
}

TEST(VocabularyHead, OnlyForbiddenTextLeavesExactTimestamps) {
  WeightArena arena;
  const at::Tensor weight = at::randn({kVocab, 64});
  const VocabularyHead head(weight, at::kFloat, arena);
  const at::Tensor hidden = at::randn({1, 64});
  at::Tensor logits = head.draft(hidden);
  logits.slice(1, 0, kTimestamps).fill_(kForbidden);
  head.refine(logits, hidden, {6, kTimestamps});
  const at::Tensor exact = exact_logits(hidden, weight).slice(1, kTimestamps);
  const at::Tensor refined = logits.slice(1, kTimestamps);
  EXPECT_LT(relative_error(std::get<0>(refined.topk(6)), std::get<0>(exact.topk(6))), 2e-6);
}

TEST(VocabularyHead, OtherTypesGiveExactDrafts) {
  WeightArena arena;
  const at::Tensor weight = at::randn({100, 16}).to(at::kBFloat16);
  const VocabularyHead head(weight, at::kBFloat16, arena);
  const at::Tensor hidden = at::randn({2, 16}).to(at::kBFloat16);
  at::Tensor logits = head.draft(hidden);
  EXPECT_TRUE(logits.equal(head.forward(hidden)));
  head.refine(logits, hidden, {1, -1});
  EXPECT_TRUE(logits.equal(head.forward(hidden)));
}

TEST(VocabularyHead, WeightsThatAreNoNumbersAreNotRounded) {
  WeightArena arena;
  at::Tensor weight = at::randn({100, 16});
  weight[3][4] = std::numeric_limits<float>::infinity();
  const VocabularyHead head(weight, at::kFloat, arena);
  const at::Tensor hidden = at::rand({1, 16}) + 0.5;
  EXPECT_TRUE(head.draft(hidden).equal(head.forward(hidden)));
}

}  // namespace
}  // namespace torchwhisper::nn
