#include "csrc/model/whisper.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::model {
namespace {

using torchwhisper::testing::random_model;
using torchwhisper::testing::random_weights;
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
