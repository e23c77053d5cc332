#include "csrc/model/text_decoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::model {
namespace {

using torchwhisper::testing::random_model;
using torchwhisper::testing::relative_error;

at::Tensor random_tokens(std::int64_t rows, std::int64_t time) {
  return at::randint(60, {rows, time}, at::kLong);
}

TEST(TextDecoder, TokenByTokenEqualsTheWholeSequence) {
  const at::NoGradGuard no_grad;
  for (const bool prepared : {false, true}) {
    TextDecoder decoder = random_model()->decoder;
    const at::Tensor tokens = random_tokens(2, 9);
    const at::Tensor features = at::randn({2, 20, 16});
    const at::Tensor whole = decoder->forward(tokens, features);
    if (prepared) {
      nn::WeightArena arena;
      decoder->prepare(at::kFloat, arena);
    }
    const AudioMemory memory = decoder->remember(features);
    DecoderState state = decoder->start(memory);
    std::vector<at::Tensor> hidden = {decoder->advance(tokens.slice(1, 0, 4), memory, state)};
    for (std::int64_t t = 4; t < 9; ++t) {
      hidden.push_back(decoder->advance(tokens.slice(1, t, t + 1), memory, state));
    }
    EXPECT_EQ(state.length(), 9);
    EXPECT_LT(relative_error(decoder->project(at::cat(hidden, 1)), whole), 3e-6);
  }
}

TEST(TextDecoder, OneTokenOfEveryRowAtATime) {
  const at::NoGradGuard no_grad;
  for (const at::ScalarType kept : {at::kFloat, at::kHalf, at::kBFloat16}) {
    TextDecoder decoder = random_model()->decoder;
    for (at::Tensor* table : {&decoder->token_embedding, &decoder->positional_embedding}) {
      table->set_data(table->detach().to(kept));
    }
    nn::WeightArena arena;
    decoder->prepare(at::kFloat, arena);
    const at::Tensor tokens = random_tokens(2, 9);
    const AudioMemory memory = decoder->remember(at::randn({2, 20, 16}));
    DecoderState whole = decoder->start(memory);
    const at::Tensor expected = decoder->advance(tokens, memory, whole);
    DecoderState state = decoder->start(memory);
    decoder->advance(tokens.slice(1, 0, 4), memory, state);
    for (std::int64_t t = 4; t < 9; ++t) {
      const at::Tensor hidden = decoder->advance_by_one(
          {tokens[0][t].item<std::int64_t>(), tokens[1][t].item<std::int64_t>()}, memory, state);
      EXPECT_LT(relative_error(hidden, expected.select(1, t)), 3e-6) << kept << " at " << t;
    }
    EXPECT_EQ(state.length(), 9);
  }
}

TEST(TextDecoder, RefusesUnknownTokensAndMoreThanItsContext) {
  const at::NoGradGuard no_grad;
  TextDecoder decoder = random_model()->decoder;
  nn::WeightArena arena;
  decoder->prepare(at::kFloat, arena);
  const AudioMemory memory = decoder->remember(at::randn({1, 20, 16}));
  DecoderState state = decoder->start(memory);
  const std::int64_t most = decoder->positional_embedding.size(0);
  EXPECT_THROW(decoder->advance_by_one({-1}, memory, state), c10::IndexError);
  EXPECT_THROW(decoder->advance_by_one({decoder->token_embedding.size(0)}, memory, state), c10::IndexError);
  decoder->advance(random_tokens(1, most), memory, state);
  EXPECT_THROW(decoder->advance_by_one({1}, memory, state), c10::ValueError);
}

TEST(TextDecoder, GroupsContinueOnTheirOwn) {
  const at::NoGradGuard no_grad;
  TextDecoder decoder = random_model()->decoder;
  const at::Tensor features = at::randn({2, 20, 16});
  const at::Tensor prompt = random_tokens(2, 3);
  const at::Tensor next = random_tokens(4, 1);
  const AudioMemory memory = decoder->remember(features);
  DecoderState state = decoder->start(memory);
  decoder->advance(prompt, memory, state);
  state.repeat_rows(2);
  state.reorder({1, 0, 3, 3});
  const at::Tensor logits = decoder->project(decoder->advance(next, memory, state)).select(1, 0);
  const at::Tensor sequences = at::cat({prompt.repeat_interleave(2, 0), next}, 1);
  const at::Tensor whole = decoder->forward(sequences, features.repeat_interleave(2, 0)).select(1, 3);
  EXPECT_LT(relative_error(logits, whole), 3e-6);
}

TEST(TextDecoder, KeepsTheScoresOfTheHeadsAskedFor) {
  const at::NoGradGuard no_grad;
  TextDecoder decoder = random_model()->decoder;
  const at::Tensor tokens = random_tokens(1, 5);
  const at::Tensor features = at::randn({1, 20, 16});
  common::Control control;
  const auto aligned =
      decoder->forward_with_scores(tokens, decoder->remember(features), {{1, 3}, {0, 2}}, control);
  EXPECT_LT(relative_error(aligned.hidden, decoder->hidden(tokens, features)[0]), 3e-6);
  EXPECT_EQ(aligned.scores.sizes(), at::IntArrayRef({2, 5, 20}));
  const auto other = decoder->forward_with_scores(tokens, decoder->remember(features), {{0, 2}}, control);
  EXPECT_TRUE(other.scores[0].equal(aligned.scores[1]));
  EXPECT_THROW(decoder->forward_with_scores(tokens, decoder->remember(features), {{2, 0}}, control),
               c10::ValueError);
  EXPECT_THROW(decoder->forward_with_scores(tokens, decoder->remember(features), {}, control),
               c10::ValueError);
}

TEST(TextDecoder, OneOfTheBatchesMayBeOne) {
  const at::NoGradGuard no_grad;
  TextDecoder decoder = random_model()->decoder;
  const at::Tensor tokens = random_tokens(3, 5);
  const at::Tensor features = at::randn({3, 20, 16});
  EXPECT_LT(relative_error(decoder->forward(tokens, features.slice(0, 0, 1)),
                           decoder->forward(tokens, features.slice(0, 0, 1).expand({3, -1, -1}))),
            2e-6);
  EXPECT_LT(relative_error(decoder->forward(tokens.slice(0, 0, 1), features),
                           decoder->forward(tokens.slice(0, 0, 1).expand({3, -1}), features)),
            2e-6);
  EXPECT_THROW(decoder->forward(tokens, features.slice(0, 0, 2)), c10::ValueError);
}

TEST(TextDecoder, RefusesSequencesThatAreTooLong) {
  TextDecoder decoder = random_model()->decoder;
  EXPECT_NO_THROW(decoder->forward(random_tokens(1, 24), at::randn({1, 20, 16})));
  EXPECT_THROW(decoder->forward(random_tokens(1, 25), at::randn({1, 20, 16})), c10::ValueError);
}

TEST(TextDecoder, CanBeCancelled) {
  TextDecoder decoder = random_model()->decoder;
  const at::Tensor features = at::randn({1, 20, 16});
  const AudioMemory memory = decoder->remember(features);
  DecoderState state = decoder->start(memory);
  common::Control control;
  control.cancel();
  EXPECT_THROW(decoder->forward(random_tokens(1, 3), features, control), common::Cancelled);
  EXPECT_THROW(decoder->remember(features, control), common::Cancelled);
  EXPECT_THROW(decoder->advance(random_tokens(1, 3), memory, state, control), common::Cancelled);
}

}  // namespace
}  // namespace torchwhisper::model
