#include "csrc/decoding/task.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/cpp/random_model.h"

namespace torchwhisper::decoding {
namespace {

using torchwhisper::testing::random_model;

constexpr std::int64_t kEot = 40;

DecodingOptions greedy_options() {
  DecodingOptions options;
  options.sample_len = 10;
  options.n_ctx = 24;
  options.sample_begin = 3;
  options.sot_index = 1;
  options.eot = kEot;
  options.no_speech = 50;
  return options;
}

class Decode : public ::testing::Test {
 protected:
  DecodingResult decode_one(const Sequence& initial, const at::Tensor& features,
                            const DecodingOptions& options) {
    return decode(whisper_, whisper_->decoder->remember(features), {initial}, options, control_).front();
  }

  // Greedy decoding without a cache, one whole forward pass per token.
  DecodingResult slow_greedy(Sequence sequence, const at::Tensor& features, const DecodingOptions& options) {
    const at::NoGradGuard no_grad;
    DecodingResult result;
    for (std::int64_t i = 0; i < options.sample_len; ++i) {
      const at::Tensor logits = whisper_->logits(at::tensor(sequence, at::kLong).unsqueeze(0), features)[0];
      if (i == 0) {
        result.no_speech_prob = at::softmax(logits[options.sot_index], 0)[options.no_speech].item<double>();
      }
      const std::int64_t token = logits[-1].argmax().item<std::int64_t>();
      result.sum_logprob += at::log_softmax(logits[-1], 0)[token].item<double>();
      if (token == options.eot) {
        break;
      }
      result.tokens.push_back(token);
      sequence.push_back(token);
    }
    return result;
  }

  model::Whisper whisper_ = random_model(3);
  common::Control control_;
};

TEST_F(Decode, GreedyEqualsDecodingWithoutACache) {
  for (int i = 0; i < 5; ++i) {
    const at::Tensor features = at::randn({1, 20, 16});
    const DecodingResult expected = slow_greedy({1, 2, 3}, features, greedy_options());
    const DecodingResult actual = decode_one({1, 2, 3}, features, greedy_options());
    EXPECT_EQ(actual.tokens, expected.tokens);
    EXPECT_NEAR(actual.sum_logprob, expected.sum_logprob, 1e-4);
    EXPECT_NEAR(actual.no_speech_prob, expected.no_speech_prob, 1e-6);
  }
}

TEST_F(Decode, BatchEqualsOneByOne) {
  const at::Tensor features = at::randn({3, 20, 16});
  const std::vector<Sequence> initial = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}};
  for (const std::int64_t beam_size : {0, 3}) {
    DecodingOptions options = greedy_options();
    options.beam_size = beam_size;
    options.n_group = std::max<std::int64_t>(beam_size, 1);
    const auto together = decode(whisper_, whisper_->decoder->remember(features), initial, options, control_);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto row = static_cast<std::int64_t>(i);
      const DecodingResult alone = decode_one(initial[i], features.slice(0, row, row + 1), options);
      EXPECT_EQ(together[i].tokens, alone.tokens);
      EXPECT_NEAR(together[i].sum_logprob, alone.sum_logprob, 1e-4);
    }
  }
}

TEST_F(Decode, AWideBeamFindsAtLeastTheGreedyText) {
  const at::Tensor features = at::randn({1, 20, 16});
  DecodingOptions options = greedy_options();
  options.sample_len = 4;
  options.length_penalty = 0.0;
  const double greedy = decode_one({1, 2, 3}, features, options).sum_logprob;
  options.beam_size = options.n_group = 8;
  EXPECT_GE(decode_one({1, 2, 3}, features, options).sum_logprob, greedy - 1e-5);
}

TEST_F(Decode, OneSeedGivesOneText) {
  const at::Tensor features = at::randn({1, 20, 16});
  DecodingOptions options = greedy_options();
  options.temperature = 3.0;
  options.n_group = 3;
  at::manual_seed(5);
  const auto first = decode_one({1, 2, 3}, features, options);
  at::manual_seed(5);
  EXPECT_EQ(decode_one({1, 2, 3}, features, options).tokens, first.tokens);
  at::manual_seed(6);
  EXPECT_NE(decode_one({1, 2, 3}, features, options).tokens, first.tokens);
}

TEST_F(Decode, StopsAtTheContextOfTheModel) {
  DecodingOptions options = greedy_options();
  options.sample_len = 100;
  options.suppress_tokens = {kEot};
  const auto result = decode_one({1, 2, 3}, at::randn({1, 20, 16}), options);
  EXPECT_EQ(result.tokens.size(), 24U - 3U + 1U);
}

TEST_F(Decode, APromptWithAnEndGivesNothing) {
  EXPECT_TRUE(decode_one({kEot, 2, 3}, at::randn({1, 20, 16}), greedy_options()).tokens.empty());
}

TEST_F(Decode, NoRecordingsGiveNoResults) {
  EXPECT_TRUE(
      decode(whisper_, whisper_->decoder->remember(at::randn({0, 20, 16})), {}, greedy_options(), control_)
          .empty());
}

TEST_F(Decode, WithoutANoSpeechTokenTheProbabilityIsUnknown) {
  DecodingOptions options = greedy_options();
  options.no_speech = -1;
  EXPECT_TRUE(std::isnan(decode_one({1, 2, 3}, at::randn({1, 20, 16}), options).no_speech_prob));
}

TEST_F(Decode, CanBeCancelled) {
  control_.cancel();
  EXPECT_THROW(decode_one({1, 2, 3}, at::randn({1, 20, 16}), greedy_options()), common::Cancelled);
}

TEST_F(Decode, RefusesRequestsThatDoNotFit) {
  const at::Tensor features = at::randn({1, 20, 16});
  EXPECT_THROW(decode_one({1, 2}, features, greedy_options()), c10::ValueError);
  EXPECT_THROW(decode(whisper_, whisper_->decoder->remember(features), {{1, 2, 3}, {1, 2, 3}},
                      greedy_options(), control_),
               c10::ValueError);
  DecodingOptions options = greedy_options();
  options.sample_begin = 25;
  EXPECT_THROW(decode_one(Sequence(25, 1), features, options), c10::ValueError);
}

}  // namespace
}  // namespace torchwhisper::decoding
