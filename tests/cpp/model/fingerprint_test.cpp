#include "csrc/model/fingerprint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::model {
namespace {

using torchwhisper::testing::random_model;

TEST(Fingerprint, IsTheSameForTheSameBytes) {
  EXPECT_EQ(fingerprint(*random_model(1)), fingerprint(*random_model(1)));
  EXPECT_NE(fingerprint(*random_model(1)), fingerprint(*random_model(2)));
}

TEST(Fingerprint, SeesOneChangedElementOfAnyTensor) {
  const at::NoGradGuard no_grad;
  Whisper whisper = random_model();
  const std::uint64_t before = fingerprint(*whisper);
  std::vector<at::Tensor> tensors = whisper->parameters();
  tensors.push_back(whisper->encoder->positional_embedding);
  for (const at::Tensor& tensor : tensors) {
    at::Tensor last = tensor.view({-1}).slice(0, tensor.numel() - 1);
    const at::Tensor value = last.clone();
    last.add_(1e-3);
    EXPECT_NE(fingerprint(*whisper), before);
    last.copy_(value);
    EXPECT_EQ(fingerprint(*whisper), before);
  }
}

TEST(Fingerprint, CanBeCancelled) {
  common::Control control;
  control.cancel();
  EXPECT_THROW(fingerprint(*random_model(), control), common::Cancelled);
}

TEST(Fingerprint, SeesSwappedRows) {
  const at::NoGradGuard no_grad;
  Whisper whisper = random_model();
  const std::uint64_t before = fingerprint(*whisper);
  whisper->decoder->token_embedding.copy_(whisper->decoder->token_embedding.flip(0));
  EXPECT_NE(fingerprint(*whisper), before);
}

}  // namespace
}  // namespace torchwhisper::model
