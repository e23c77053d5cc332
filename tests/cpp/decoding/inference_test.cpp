#include "csrc/decoding/inference.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::decoding {
namespace {

using torchwhisper::testing::random_model;
using torchwhisper::testing::relative_error;

at::Tensor whole(model::Whisper& whisper, const Sequence& sequence, const at::Tensor& features) {
  return whisper->logits(at::tensor(sequence, at::kLong).unsqueeze(0), features)[0];
}

TEST(Inference, PrefillGivesTheLogitsOfTwoPositions) {
  const at::NoGradGuard no_grad;
  model::Whisper whisper = random_model();
  const at::Tensor features = at::randn({2, 20, 16});
  const model::AudioMemory memory = whisper->decoder->remember(features);
  Inference inference(whisper, memory, /*drafts=*/false);
  const auto prefill = inference.prefill({{3, 1, 4}, {1, 5, 9}}, /*sot_index=*/1);
  const at::Tensor second = whole(whisper, {1, 5, 9}, features.slice(0, 1, 2));
  EXPECT_LT(relative_error(prefill.last[1], second[2]), 3e-6);
  EXPECT_LT(relative_error(prefill.at_sot[1], second[1]), 3e-6);
}

TEST(Inference, StepsFollowReorderedSequences) {
  const at::NoGradGuard no_grad;
  model::Whisper whisper = random_model();
  const at::Tensor features = at::randn({1, 20, 16});
  const model::AudioMemory memory = whisper->decoder->remember(features);
  Inference inference(whisper, memory, /*drafts=*/false);
  inference.prefill({{3, 1, 4}}, 0);
  inference.expand_groups(2);
  inference.step({{3, 1, 4, 7}, {3, 1, 4, 8}});
  inference.reorder({1, 0});
  const at::Tensor logits = inference.step({{3, 1, 4, 8, 11}, {3, 1, 4, 7, 12}});
  EXPECT_LT(relative_error(logits[0], whole(whisper, {3, 1, 4, 8, 11}, features)[4]), 3e-6);
  EXPECT_LT(relative_error(logits[1], whole(whisper, {3, 1, 4, 7, 12}, features)[4]), 3e-6);
}

}  // namespace
}  // namespace torchwhisper::decoding
