#include "csrc/audio/resample_filter.h"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>

namespace torchwhisper::audio {
namespace {

TEST(ResampleFilter, HasThirtyTwoTapsWhenTheRateRises) {
  const ResampleFilter filter(8000, 16000);
  EXPECT_EQ(filter.taps, 32);
  EXPECT_EQ(filter.up, 2);
  EXPECT_EQ(filter.down, 1);
  EXPECT_EQ(filter.phases, 2);
  EXPECT_FALSE(filter.interpolates());
}

TEST(ResampleFilter, GrowsWithTheRatioWhenTheRateFalls) {
  EXPECT_EQ(ResampleFilter(48000, 16000).taps, 100);  // 32 * 3 / 0.97, even
  EXPECT_EQ(ResampleFilter(44100, 16000).taps, 92);
  EXPECT_EQ(ResampleFilter(192000, 16000).taps, 396);
}

TEST(ResampleFilter, InterpolatesWhereThePhasesAreTooMany) {
  const ResampleFilter filter(44101, 16000);
  EXPECT_EQ(filter.up, 16000);
  EXPECT_EQ(filter.phases, 1024);
  EXPECT_TRUE(filter.interpolates());
}

TEST(ResampleFilter, PassesASampleWhereTheRatesMeet) {
  const ResampleFilter filter(8000, 16000);
  for (std::int64_t tap = 0; tap < filter.width; ++tap) {
    EXPECT_NEAR(filter.row(0)[tap], tap == filter.centre ? 1 : 0, 1e-12);
  }
}

TEST(ResampleFilter, KeepsAConstantSignal) {
  for (const int rate : {8000, 11025, 22050, 44100, 48000, 44101}) {
    const ResampleFilter filter(rate, 16000);
    for (std::int64_t phase = 0; phase <= filter.phases; ++phase) {
      const double* row = filter.row(phase);
      EXPECT_NEAR(std::accumulate(row, row + filter.width, 0.0), 1, 1e-4) << rate << " phase " << phase;
    }
  }
}

TEST(ResampleFilter, LastRowIsTheFirstOneOneSampleLater) {
  const ResampleFilter filter(44101, 16000);
  for (std::int64_t tap = 0; tap + 1 < filter.width; ++tap) {
    EXPECT_EQ(filter.row(filter.phases)[tap + 1], filter.row(0)[tap]);
  }
}

TEST(ResampleFilter, RefusesImpossibleRates) {
  EXPECT_THROW(ResampleFilter(0, 16000), std::invalid_argument);
  EXPECT_THROW(ResampleFilter(16000, -1), std::invalid_argument);
  EXPECT_THROW(ResampleFilter(2'000'000'000, 16000), std::invalid_argument);
}

}  // namespace
}  // namespace torchwhisper::audio
