#include "csrc/decoding/sequence_ranker.h"

#include <gtest/gtest.h>

namespace torchwhisper::decoding {
namespace {

TEST(BestCandidate, DividesByTheLength) {
  EXPECT_EQ(best_candidate({{1, -1.0}, {4, -2.0}}, std::nullopt), 1U);
}

TEST(BestCandidate, PenaltyZeroComparesSums) { EXPECT_EQ(best_candidate({{1, -1.0}, {4, -2.0}}, 0.0), 0U); }

TEST(BestCandidate, PenaltyFollowsTheFormula) {
  // ((5 + 1) / 6)^1 = 1 and ((5 + 7) / 6)^1 = 2: -1.5 against -2.9 / 2 = -1.45.
  EXPECT_EQ(best_candidate({{1, -1.5}, {7, -2.9}}, 1.0), 1U);
  EXPECT_EQ(best_candidate({{1, -1.5}, {7, -3.1}}, 1.0), 0U);
}

TEST(BestCandidate, TheFirstOfEqualsWins) {
  EXPECT_EQ(best_candidate({{2, -1.0}, {2, -1.0}}, std::nullopt), 0U);
}

TEST(BestCandidate, ACandidateWithoutTokensIsRanked) {
  EXPECT_EQ(best_candidate({{0, -5.0}, {2, -4.0}}, std::nullopt), 1U);
}

}  // namespace
}  // namespace torchwhisper::decoding
