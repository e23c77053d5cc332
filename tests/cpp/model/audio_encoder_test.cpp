#include "csrc/model/audio_encoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"
#include "tests/cpp/step_counter.h"

namespace torchwhisper::model {
namespace {

using torchwhisper::testing::random_model;
using torchwhisper::testing::relative_error;
using torchwhisper::testing::StepCounter;

TEST(AudioEncoder, RecordingsOfABatchDoNotMix) {
  const at::NoGradGuard no_grad;
  AudioEncoder encoder = random_model()->encoder;
  common::Control control;
  const at::Tensor mel = at::randn({3, 6, 40});
  const at::Tensor together = encoder->forward(mel, control);
  EXPECT_EQ(together.sizes(), at::IntArrayRef({3, 20, 16}));
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_LT(relative_error(together[i], encoder->forward(mel.slice(0, i, i + 1), control)[0]), 2e-6);
  }
}

TEST(AudioEncoder, PreparedEqualsLive) {
  const at::NoGradGuard no_grad;
  AudioEncoder encoder = random_model()->encoder;
  common::Control control;
  const at::Tensor mel = at::randn({1, 6, 40});
  const at::Tensor live = encoder->forward(mel, control);
  nn::WeightArena arena;
  encoder->prepare(at::kFloat, arena);
  EXPECT_LT(relative_error(encoder->forward(mel, control), live), 2e-6);
}

TEST(AudioEncoder, RefusesOtherLengths) {
  AudioEncoder encoder = random_model()->encoder;
  common::Control control;
  EXPECT_THROW(encoder->forward(at::randn({1, 6, 38}), control), c10::ValueError);
}

TEST(AudioEncoder, StepsThroughTheLayersOfEachWindow) {
  AudioEncoder encoder = random_model()->encoder;
  const auto layers = static_cast<std::int64_t>(encoder->blocks.size());
  const at::Tensor mel = at::randn({3, 6, 40});
  StepCounter together;
  encoder->forward(mel, together);
  EXPECT_EQ(together.steps, layers);  // a batch to be trained on
  const at::NoGradGuard no_grad;
  StepCounter apart;
  encoder->forward(mel, apart);
  EXPECT_EQ(apart.steps, 3 * layers);
}

TEST(AudioEncoder, CanBeCancelled) {
  AudioEncoder encoder = random_model()->encoder;
  common::Control control;
  control.cancel();
  EXPECT_THROW(encoder->forward(at::randn({1, 6, 40}), control), common::Cancelled);
}

}  // namespace
}  // namespace torchwhisper::model
