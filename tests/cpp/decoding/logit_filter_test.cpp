#include "csrc/decoding/logit_filter.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace torchwhisper::decoding {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A vocabulary of 20: text 0-8, eot 9, no_timestamps 10, timestamps 11-19. Two initial tokens.
DecodingOptions options() {
  DecodingOptions given;
  given.eot = 9;
  given.no_timestamps = 10;
  given.timestamp_begin = 11;
  given.sample_begin = 2;
  return given;
}

std::vector<std::int64_t> allowed(const at::Tensor& row) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t i = 0; i < row.size(0); ++i) {
    if (!std::isinf(row[i].item<float>())) {
      tokens.push_back(i);
    }
  }
  return tokens;
}

std::vector<std::int64_t> range(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = begin; i < end; ++i) {
    values.push_back(i);
  }
  return values;
}

// What the timestamp rules allow after `sampled`, where text is far more probable than timestamps.
std::vector<std::int64_t> allowed_after(const Sequence& sampled, const DecodingOptions& given = options()) {
  Sequence sequence = {0, 0};
  sequence.insert(sequence.end(), sampled.begin(), sampled.end());
  at::Tensor logits = at::zeros({1, 20});
  logits.slice(1, 0, 10).fill_(10.0);
  ApplyTimestampRules(given).apply(logits, {sequence});
  return allowed(logits[0]);
}

TEST(SuppressBlank, ActsOnTheFirstTokenOnly) {
  const SuppressBlank filter({3, 9}, 2, at::kCPU);
  at::Tensor first = at::zeros({2, 10});
  filter.apply(first, {{0, 0}, {0, 0}});
  EXPECT_THAT(allowed(first[1]), ElementsAre(0, 1, 2, 4, 5, 6, 7, 8));
  at::Tensor later = at::zeros({1, 10});
  filter.apply(later, {{0, 0, 5}});
  EXPECT_EQ(allowed(later[0]), range(0, 10));
}

TEST(SuppressTokens, ActsEverywhere) {
  at::Tensor logits = at::zeros({2, 5});
  SuppressTokens({0, 4}, at::kCPU).apply(logits, {{1}, {2}});
  EXPECT_THAT(allowed(logits[0]), ElementsAre(1, 2, 3));
  EXPECT_THAT(allowed(logits[1]), ElementsAre(1, 2, 3));
}

TEST(SuppressTokens, CountsFromTheEndAndKnowsItsBounds) {
  at::Tensor logits = at::zeros({1, 5});
  SuppressTokens({-1}, at::kCPU).apply(logits, {{1}});
  EXPECT_THAT(allowed(logits[0]), ElementsAre(0, 1, 2, 3));
  EXPECT_THROW(SuppressTokens({5}, at::kCPU).apply(logits, {{1}}), c10::IndexError);
}

TEST(ApplyTimestampRules, TheFirstTokenIsATimestamp) {
  EXPECT_EQ(allowed_after({}), range(11, 20));
  DecodingOptions capped = options();
  capped.max_initial_timestamp_index = 3;
  EXPECT_EQ(allowed_after({}, capped), range(11, 15));
}

TEST(ApplyTimestampRules, TextFollowsAPair) {
  EXPECT_EQ(allowed_after({11, 5, 13, 13}), range(0, 10));
  EXPECT_EQ(allowed_after({12}), range(0, 10));
}

TEST(ApplyTimestampRules, AnOpenPairIsClosedOrTheTextEnds) {
  std::vector<std::int64_t> expected = {9};
  for (const std::int64_t timestamp : range(13, 20)) {
    expected.push_back(timestamp);
  }
  EXPECT_EQ(allowed_after({11, 5, 13}), expected);
}

TEST(ApplyTimestampRules, TimeNeverGoesBackAndSegmentsHaveALength) {
  std::vector<std::int64_t> expected = range(0, 10);
  for (const std::int64_t timestamp : range(14, 20)) {
    expected.push_back(timestamp);
  }
  EXPECT_EQ(allowed_after({13, 5, 6}), expected);
}

TEST(TimestampProbability, TimestampsWinTogether) {
  at::Tensor logits = at::full({2, 20}, -5.0);
  logits.slice(1, 11).fill_(0.0);
  logits[0][4] = std::log(7.9);  // eight timestamps of weight 1 are allowed: the first would not be later
  logits[1][4] = std::log(8.1);
  const Sequence sequence = {0, 0, 11, 3};
  ApplyTimestampRules(options()).apply(logits, {sequence, sequence});
  TimestampProbability(11).apply(logits, {sequence, sequence});
  EXPECT_THAT(allowed(logits[0].slice(0, 0, 11)), IsEmpty());
  EXPECT_FALSE(allowed(logits[1].slice(0, 0, 11)).empty());
}

TEST(TimestampProbability, NoTimestampLeftLetsTextWin) {
  at::Tensor logits = at::zeros({1, 20});
  logits.slice(1, 11).fill_(-std::numeric_limits<float>::infinity());
  TimestampProbability(11).apply(logits, {{0, 0}});
  EXPECT_EQ(allowed(logits[0]), range(0, 11));
}

TEST(MakeLogitFilters, MakesWhatTheOptionsAskFor) {
  DecodingOptions given;
  const LogitFilters none = make_logit_filters(given, at::kCPU);
  EXPECT_TRUE(none.masks.empty());
  EXPECT_EQ(none.timestamp_probability, nullptr);
  given.suppress_blank = {1};
  given.suppress_tokens = {2};
  given.timestamp_begin = 5;
  const LogitFilters all = make_logit_filters(given, at::kCPU);
  EXPECT_EQ(all.masks.size(), 3U);
  EXPECT_NE(all.timestamp_probability, nullptr);
}

}  // namespace
}  // namespace torchwhisper::decoding
