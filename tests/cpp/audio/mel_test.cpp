#include "csrc/audio/mel.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/hann_window.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/stft.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "csrc/audio/mel_filters.h"

namespace torchwhisper::audio {
namespace {

using testing::HasSubstr;

at::Tensor log_mel(const at::Tensor& audio, std::int64_t padding = 0, std::int64_t mels = 80) {
  common::Control control;
  return log_mel_spectrogram(audio, mel_filters(mels), padding, control);
}

/// The definition, on the whole recording at once.
at::Tensor expected_log_mel(const at::Tensor& audio, std::int64_t mels = 80) {
  const at::Tensor spectrum = at::stft(audio, kFftSize, kHopLength, kFftSize, at::hann_window(kFftSize),
                                       /*center=*/true, "reflect", false, true, true);
  const at::Tensor energies = spectrum.narrow(-1, 0, spectrum.size(-1) - 1).abs().pow(2);
  const at::Tensor logs = mel_filters(mels).matmul(energies).clamp_min(1e-10).log10();
  return (at::maximum(logs, logs.max() - 8) + 4) / 4;
}

void expect_close(const at::Tensor& a, const at::Tensor& b) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a - b).abs().max().item<float>(), 1e-6F);
}

TEST(Mel, EqualsTheWholeAtOnce) {
  for (const std::int64_t samples : {201, 399, 16000, 480000, 1200123}) {  // up to three blocks
    const at::Tensor audio = at::randn({samples}) * 0.1;
    expect_close(log_mel(audio), expected_log_mel(audio));
  }
  const at::Tensor audio = at::randn({50000}) * 0.1;
  expect_close(log_mel(audio, 0, 128), expected_log_mel(audio, 128));
}

TEST(Mel, PadsWithZeros) {
  const at::Tensor audio = at::randn({12345}) * 0.1;
  EXPECT_TRUE(at::equal(log_mel(audio, 480000), log_mel(at::constant_pad_nd(audio, {0, 480000}))));
  EXPECT_EQ(log_mel(at::zeros({0}), 480000).sizes(), (at::IntArrayRef{80, 3000}));
}

TEST(Mel, TakesTheLargestOfTheWholeBatch) {
  const at::Tensor loud = at::randn({16000});
  const at::Tensor quiet = loud * 1e-6;
  const at::Tensor batch = at::stack({loud, quiet});
  expect_close(log_mel(batch), expected_log_mel(batch));
  EXPECT_FALSE(at::equal(log_mel(batch)[1], log_mel(quiet)));
}

TEST(Mel, TakesTensorsWithGaps) {
  const at::Tensor audio = at::randn({2, 32000});
  EXPECT_TRUE(
      at::equal(log_mel(audio.slice(1, 0, 32000, 2)), log_mel(audio.slice(1, 0, 32000, 2).contiguous())));
}

template <typename Call>
std::string message(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(Mel, NamesTheFirstUnusableSample) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), 1e30F}) {
    const at::Tensor audio = at::zeros({2, 5000});
    audio[1][4321] = bad;
    audio[1][4400] = bad;
    EXPECT_THROW(log_mel(audio), c10::ValueError);
    EXPECT_THAT(message([&] { log_mel(audio); }), HasSubstr("audio sample [1, 4321] is"));
    EXPECT_THAT(message([&] { log_mel(audio[1]); }), HasSubstr("audio sample 4321 is"));
  }
}

TEST(Mel, RefusesOtherShapesAndTypes) {
  EXPECT_THROW(log_mel(at::zeros({1, 1, 1000})), c10::ValueError);
  EXPECT_THROW(log_mel(at::zeros({0, 1000})), c10::ValueError);
  EXPECT_THROW(log_mel(at::zeros({1000}, at::kDouble)), c10::TypeError);
  EXPECT_THAT(message([&] { log_mel(at::zeros({200})); }), HasSubstr("more than 200"));
}

TEST(Mel, StopsWhenItIsCancelled) {
  common::Control control;
  control.cancel();
  EXPECT_THROW(log_mel_spectrogram(at::zeros({16000}), mel_filters(80), 0, control), common::Cancelled);
}

}  // namespace
}  // namespace torchwhisper::audio
