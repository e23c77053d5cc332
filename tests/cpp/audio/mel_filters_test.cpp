#include "csrc/audio/mel_filters.h"

#include <gtest/gtest.h>

namespace torchwhisper::audio {
namespace {

TEST(MelFilters, HaveUnitArea) {
  const at::Tensor filters = mel_filters(20);  // wide enough to be sampled well
  ASSERT_EQ(filters.sizes(), (at::IntArrayRef{20, 201}));
  const at::Tensor areas = filters.sum(1) * 40;  // one bin is 40 Hz
  EXPECT_LT((areas - 1).abs().max().item<float>(), 0.1F);
}

TEST(MelFilters, RiseAndFallInOrder) {
  const at::Tensor filters = mel_filters(80);
  EXPECT_GE(filters.min().item<float>(), 0);
  const at::Tensor peaks = filters.argmax(1);
  for (std::int64_t mel = 1; mel < 80; ++mel) {
    EXPECT_GE(peaks[mel].item<std::int64_t>(), peaks[mel - 1].item<std::int64_t>());
  }
}

TEST(MelFilters, RefuseLessThanOne) { EXPECT_THROW(mel_filters(0), c10::ValueError); }

}  // namespace
}  // namespace torchwhisper::audio
