#include "csrc/decoding/token_decoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace torchwhisper::decoding {
namespace {

constexpr std::int64_t kEot = 4;

at::Tensor logits_of(std::vector<std::vector<double>> probabilities) {
  at::Tensor logits = at::empty({static_cast<std::int64_t>(probabilities.size()), 5});
  for (std::size_t row = 0; row < probabilities.size(); ++row) {
    logits[static_cast<std::int64_t>(row)] = at::tensor(probabilities[row]).log();
  }
  return logits;
}

TEST(GreedyDecoder, TakesTheMostProbableTokenAndAddsUp) {
  GreedyDecoder decoder(0.0, kEot, 2);
  std::vector<Sequence> sequences = {{0}, {0}};
  EXPECT_FALSE(decoder.update(logits_of({{.1, .5, .2, .1, .1}, {.1, .1, .1, .1, .6}}), sequences).completed);
  EXPECT_TRUE(decoder.update(logits_of({{.1, .1, .1, .1, .6}, {.6, .1, .1, .1, .1}}), sequences).completed);
  EXPECT_EQ(sequences, (std::vector<Sequence>{{0, 1, kEot}, {0, kEot, kEot}}));
  const auto candidates = decoder.finalize(sequences, 1);
  ASSERT_EQ(candidates.size(), 2U);
  EXPECT_NEAR(candidates[0][0].sum_logprob, std::log(.5) + std::log(.6), 1e-6);
  EXPECT_NEAR(candidates[1][0].sum_logprob, std::log(.6), 1e-6);  // nothing counts after the end
}

TEST(GreedyDecoder, SamplesByProbability) {
  at::manual_seed(7);
  GreedyDecoder decoder(1.0, kEot, 4000);
  std::vector<Sequence> sequences(4000, {0});
  decoder.update(logits_of({{.1, .4, .3, .15, .05}}).expand({4000, 5}).contiguous(), sequences);
  std::vector<double> counts(5, 0.0);
  for (const Sequence& sequence : sequences) {
    counts[static_cast<std::size_t>(sequence.back())] += 1.0 / 4000;
  }
  EXPECT_NEAR(counts[1], .4, .03);
  EXPECT_NEAR(counts[2], .3, .03);
  EXPECT_NEAR(counts[4], .05, .015);
}

TEST(GreedyDecoder, LowTemperatureSharpens) {
  at::manual_seed(7);
  GreedyDecoder decoder(0.05, kEot, 200);
  std::vector<Sequence> sequences(200, {0});
  decoder.update(logits_of({{.1, .4, .3, .15, .05}}).expand({200, 5}).contiguous(), sequences);
  const auto ones =
      std::count_if(sequences.begin(), sequences.end(), [](const Sequence& s) { return s.back() == 1; });
  EXPECT_GT(ones, 190);
}

TEST(BeamSearchDecoder, IdenticalBeamsSpreadAtTheFirstStep) {
  BeamSearchDecoder decoder(2, 1.0, kEot, 1);
  std::vector<Sequence> sequences = {{0}, {0}};
  const auto update = decoder.update(logits_of({{.05, .5, .3, .1, .05}, {.05, .5, .3, .1, .05}}), sequences);
  EXPECT_EQ(sequences, (std::vector<Sequence>{{0, 1}, {0, 2}}));
  EXPECT_FALSE(update.completed);
}

TEST(BeamSearchDecoder, KeepsTheBestContinuationsWhereverTheyComeFrom) {
  BeamSearchDecoder decoder(2, 1.0, kEot, 1);
  std::vector<Sequence> sequences = {{0}, {0}};
  decoder.update(logits_of({{.05, .5, .3, .1, .05}, {.05, .5, .3, .1, .05}}), sequences);
  // .3 * .9 beats .5 * .4.
  const auto update = decoder.update(logits_of({{.4, .2, .2, .1, .1}, {.9, .02, .02, .02, .04}}), sequences);
  EXPECT_EQ(update.sources.front(), 1);
  EXPECT_EQ(sequences.front(), (Sequence{0, 2, 0}));
  EXPECT_EQ(sequences.back(), (Sequence{0, 1, 0}));
}

TEST(BeamSearchDecoder, EndsAfterEnoughCandidates) {
  BeamSearchDecoder decoder(2, 1.0, kEot, 1);
  std::vector<Sequence> sequences = {{0}, {0}};
  const at::Tensor ending = logits_of({{.1, .2, .1, .1, .5}, {.1, .2, .1, .1, .5}});
  EXPECT_FALSE(decoder.update(ending, sequences).completed);
  EXPECT_TRUE(decoder.update(ending, sequences).completed);
  const auto candidates = decoder.finalize(sequences, 2);
  ASSERT_EQ(candidates[0].size(), 2U);
  EXPECT_EQ(candidates[0][0].tokens, (Sequence{0, kEot}));
  EXPECT_NEAR(candidates[0][0].sum_logprob, std::log(.5), 1e-6);
}

TEST(BeamSearchDecoder, PatienceWaitsForMoreCandidates) {
  BeamSearchDecoder patient(2, 2.0, kEot, 1);
  std::vector<Sequence> sequences = {{0}, {0}};
  const at::Tensor ending = logits_of({{.1, .2, .1, .1, .5}, {.1, .2, .1, .1, .5}});
  patient.update(ending, sequences);
  EXPECT_FALSE(patient.update(ending, sequences).completed);
}

TEST(BeamSearchDecoder, UnfinishedBeamsFillUp) {
  BeamSearchDecoder decoder(2, 1.0, kEot, 1);
  std::vector<Sequence> sequences = {{0}, {0}};
  decoder.update(logits_of({{.05, .5, .3, .1, .05}, {.05, .5, .3, .1, .05}}), sequences);
  const auto candidates = decoder.finalize(sequences, 2);
  ASSERT_EQ(candidates[0].size(), 2U);
  EXPECT_EQ(candidates[0][0].tokens, (Sequence{0, 1, kEot}));
  EXPECT_EQ(candidates[0][1].tokens, (Sequence{0, 2, kEot}));
}

TEST(BeamSearchDecoder, RecordingsOfABatchDoNotMix) {
  BeamSearchDecoder decoder(2, 1.0, kEot, 2);
  std::vector<Sequence> sequences = {{0}, {0}, {3}, {3}};
  const auto update = decoder.update(
      logits_of(
          {{.05, .5, .3, .1, .05}, {.05, .5, .3, .1, .05}, {.3, .05, .1, .5, .05}, {.3, .05, .1, .5, .05}}),
      sequences);
  EXPECT_EQ(sequences, (std::vector<Sequence>{{0, 1}, {0, 2}, {3, 3}, {3, 0}}));
  EXPECT_EQ(update.sources, (std::vector<std::int64_t>{1, 1, 3, 3}));  // the last of identical beams
}

TEST(BeamSearchDecoder, RefusesToEndBeforeItStarts) {
  EXPECT_THROW(BeamSearchDecoder(1, 0.4, kEot, 1), c10::ValueError);
  EXPECT_THROW(BeamSearchDecoder(2, -1.0, kEot, 1), c10::ValueError);
}

TEST(MakeTokenDecoder, ChoosesTheSearch) {
  DecodingOptions options;
  EXPECT_NE(dynamic_cast<GreedyDecoder*>(make_token_decoder(options, 1).get()), nullptr);
  options.beam_size = 3;
  EXPECT_NE(dynamic_cast<BeamSearchDecoder*>(make_token_decoder(options, 1).get()), nullptr);
}

}  // namespace
}  // namespace torchwhisper::decoding
