#include "csrc/timing/median_filter.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/reflection_pad1d.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

namespace torchwhisper::timing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// The definition, by a sort: x: [row, frame].
at::Tensor sorted_median(const at::Tensor& x, std::int64_t width) {
  const at::Tensor padded = at::reflection_pad1d(x, {width / 2, width / 2});
  return std::get<0>(padded.unfold(-1, width, 1).sort(-1)).select(-1, width / 2);
}

using Case = std::tuple<std::int64_t, std::int64_t>;
class MedianFilterSizes : public testing::TestWithParam<Case> {};

TEST_P(MedianFilterSizes, EqualsTheSort) {
  const auto [length, width] = GetParam();
  for (const auto type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    const at::Tensor x = at::randn({3, length}).to(type);
    const at::Tensor got = median_filter(x, width);
    EXPECT_EQ(got.scalar_type(), type);
    EXPECT_TRUE(at::equal(got, sorted_median(x, width))) << type;
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, MedianFilterSizes,
                         testing::Combine(testing::Values(33, 31, 32, 64, 65, 200),
                                          testing::Values(1, 3, 5, 7, 13, 29, 31, 33, 59)));

TEST(MedianFilter, WorksOnTheLastDimensionOfAnyShape) {
  const at::Tensor x = at::randn({2, 3, 4, 40});
  const at::Tensor flat = median_filter(x.reshape({24, 40}), 7);
  EXPECT_TRUE(at::equal(median_filter(x, 7).reshape({24, 40}), flat));
  const at::Tensor turned = x.transpose(1, 3).contiguous().transpose(1, 3);
  EXPECT_TRUE(at::equal(median_filter(turned, 7).reshape({24, 40}), flat));
  EXPECT_EQ(median_filter(x.select(0, 0).narrow(0, 0, 0), 7).sizes(), at::IntArrayRef({0, 4, 40}));
}

TEST(MedianFilter, ReturnsShortRowsAsTheyAre) {
  for (const std::int64_t length : {0, 1, 3}) {
    const at::Tensor x = at::randn({2, length});
    EXPECT_TRUE(median_filter(x, 7).is_same(x));
  }
  EXPECT_FALSE(
      at::equal(median_filter(at::tensor({3.F, 1.F, 2.F, 9.F}), 7), at::tensor({3.F, 1.F, 2.F, 9.F})));
}

TEST(MedianFilter, NanIsTheLargest) {
  const at::Tensor x = at::tensor({kNan, 1.F, 2.F, kNan, kNan, kNan, 5.F, 4.F, 3.F});
  const at::Tensor got = median_filter(x, 3);
  const at::Tensor expected = at::tensor({1.F, 2.F, 2.F, kNan, kNan, kNan, 5.F, 4.F, 4.F});
  EXPECT_TRUE(at::equal(got.isnan(), expected.isnan())) << got;
  EXPECT_TRUE(at::equal(got.nan_to_num(), expected.nan_to_num())) << got;
}

TEST(MedianFilter, RefusesWhatItCannotFilter) {
  EXPECT_THROW(median_filter(at::randn({9}), 4), c10::ValueError);
  EXPECT_THROW(median_filter(at::randn({9}), -3), c10::ValueError);
  EXPECT_THROW(median_filter(at::randn({}), 3), c10::ValueError);
  EXPECT_THROW(median_filter(at::arange(9), 3), c10::ValueError);
}

}  // namespace
}  // namespace torchwhisper::timing
