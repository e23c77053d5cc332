#include "csrc/model/whisper.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/cpp/random_model.h"

namespace torchwhisper::model {
namespace {

using torchwhisper::testing::random_model;
using torchwhisper::testing::random_weights;
using torchwhisper::testing::relative_error;
using torchwhisper::testing::small_dimensions;

TEST(Whisper, AdoptsEveryTensorUnderItsName) {
  const nn::NamedTensors tensors = random_weights(small_dimensions());
  Whisper whisper(small_dimensions(), tensors);
  auto named = whisper->named_parameters();
  EXPECT_EQ(named.size() + whisper->named_buffers().size(), tensors.size());
  for (const auto& item : named) {
    EXPECT_TRUE(item.value().is_same(tensors.at(item.key()))) << item.key();
  }
}

TEST(Whisper, ForwardIsEncoderThenDecoder) {
  const at::NoGradGuard no_grad;
  Whisper whisper = random_model();
  common::Control control;
  const at::Tensor mel = at::randn({2, 6, 40});
  const at::Tensor tokens = at::randint(60, {2, 5}, at::kLong);
  const at::Tensor logits = whisper->forward(mel, tokens);
  EXPECT_EQ(logits.sizes(), at::IntArrayRef({2, 5, 60}));
  EXPECT_TRUE(logits.equal(whisper->logits(tokens, whisper->embed_audio(mel, control))));
}

TEST(Whisper, LearnsThroughEveryParameter) {
  nn::NamedTensors tensors = random_weights(small_dimensions());
  for (auto& [name, tensor] : tensors) {
    tensor.set_requires_grad(name != "encoder.positional_embedding");
  }
  Whisper whisper(small_dimensions(), tensors);
  whisper->forward(at::randn({1, 6, 40}), at::randint(60, {1, 24}, at::kLong)).square().mean().backward();
  for (const auto& item : whisper->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(item.value().grad().abs().max().item<float>(), 0.0F) << item.key();
  }
}

// From features on and with a cache, which prepared weights are for.
at::Tensor decoded(Whisper& whisper, const at::Tensor& mel) {
  common::Control control;
  const AudioMemory memory = whisper->decoder->remember(whisper->embed_audio(mel, control));
  DecoderState state = whisper->decoder->start(memory);
  const at::Tensor tokens = at::tensor({3, 5, 7, 11, 13, 17}, at::kLong).view({2, 3});
  std::vector<at::Tensor> logits;
  for (std::int64_t t = 0; t < 3; ++t) {
    const at::Tensor hidden = whisper->decoder->advance(tokens.slice(1, t, t + 1), memory, state);
    logits.push_back(whisper->decoder->project(hidden));
  }
  return at::cat(logits, 1);
}

class WhisperPrecision : public ::testing::TestWithParam<std::pair<nn::ComputeType, double>> {};
INSTANTIATE_TEST_SUITE_P(Types, WhisperPrecision,
                         ::testing::Values(std::pair{nn::ComputeType::kFloat32, 1e-5},
                                           std::pair{nn::ComputeType::kBFloat16, 0.03},
                                           std::pair{nn::ComputeType::kInt8, 0.1}));

TEST_P(WhisperPrecision, PreparedIsCloseToLive) {
  const auto [type, tolerance] = GetParam();
  const at::NoGradGuard no_grad;
  const at::Tensor mel = at::randn({2, 6, 40});
  Whisper live = random_model();
  Whisper prepared = random_model();
  if (const std::string_view obstacle = nn::compute_type_obstacle(type); !obstacle.empty()) {
    EXPECT_THROW(prepared->prepare({at::kFloat, type}), c10::ValueError);
    GTEST_SKIP() << obstacle;
  }
  prepared->prepare({at::kFloat, type});
  EXPECT_LT(relative_error(decoded(prepared, mel), decoded(live, mel)), tolerance);
}

// Parameters may be kept shorter than what is computed in.
TEST_P(WhisperPrecision, TakesParametersInHalf) {
  const auto [type, tolerance] = GetParam();
  if (const std::string_view obstacle = nn::compute_type_obstacle(type); !obstacle.empty()) {
    GTEST_SKIP() << obstacle;
  }
  const at::NoGradGuard no_grad;
  nn::NamedTensors tensors = random_weights(small_dimensions());
  nn::NamedTensors halves;
  for (auto& [name, tensor] : tensors) {
    halves[name] = name == "encoder.positional_embedding" ? tensor : tensor.to(at::kHalf);
    tensor = halves[name].to(at::kFloat);
  }
  const at::Tensor mel = at::randn({2, 6, 40});
  Whisper live(small_dimensions(), tensors);
  Whisper prepared(small_dimensions(), halves);
  prepared->prepare({at::kFloat, type});
  EXPECT_LT(relative_error(decoded(prepared, mel), decoded(live, mel)), tolerance);
}

TEST(Whisper, RoundedProductsAreForFloat32Activations) {
  EXPECT_THROW(random_model()->prepare({at::kHalf, nn::ComputeType::kInt8}), c10::ValueError);
}

TEST(Whisper, PreparingCanBeCancelled) {
  common::Control control;
  control.cancel();
  EXPECT_THROW(random_model()->prepare(at::kFloat, control), common::Cancelled);
}

TEST(Whisper, RefusesWrongInput) {
  Whisper whisper = random_model();
  common::Control control;
  EXPECT_THROW(whisper->embed_audio(at::randn({1, 7, 40}), control), c10::ValueError);
  EXPECT_THROW(whisper->embed_audio(at::randn({6, 40}), control), c10::ValueError);
  nn::NamedTensors tensors = random_weights(small_dimensions());
  tensors.erase("decoder.blocks.1.cross_attn.key.weight");
  EXPECT_THROW(Whisper(small_dimensions(), tensors), c10::ValueError);
}

}  // namespace
}  // namespace torchwhisper::model
