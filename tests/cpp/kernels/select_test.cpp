#include "csrc/kernels/select.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace torchwhisper::kernels {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::int64_t> indices(const std::vector<Ranked>& ranked) {
  std::vector<std::int64_t> found;
  for (const Ranked& entry : ranked) {
    found.push_back(entry.index);
  }
  return found;
}

TEST(Largest, EqualsTopkOfRandomNumbers) {
  for (const std::int64_t n : {1, 5, 511, 512, 513, 51865}) {
    const at::Tensor x = at::randperm(n, at::kLong).to(at::kFloat) - 100;
    for (const std::int64_t k : {1, 2, 6, 40}) {
      const auto [values, places] = x.topk(std::min(n, k));
      const auto ranked = largest(x.const_data_ptr<float>(), n, k);
      ASSERT_EQ(static_cast<std::int64_t>(ranked.size()), std::min(n, k));
      for (std::size_t i = 0; i < ranked.size(); ++i) {
        EXPECT_EQ(ranked[i].index, places[static_cast<std::int64_t>(i)].item<std::int64_t>());
        EXPECT_EQ(ranked[i].value, values[static_cast<std::int64_t>(i)].item<float>());
      }
    }
  }
}

TEST(Largest, OfEqualOnesTheFirstComesFirst) {
  const std::vector<float> x = {1, 3, 2, 3, 3, 0};
  EXPECT_THAT(indices(largest(x.data(), 6, 2)), ElementsAre(1, 3));
  EXPECT_THAT(indices(largest(x.data(), 6, 4)), ElementsAre(1, 3, 4, 2));
}

TEST(Largest, CountsForbiddenNumbersLast) {
  const float forbidden = -std::numeric_limits<float>::infinity();
  const std::vector<float> x = {forbidden, -7, forbidden};
  EXPECT_THAT(indices(largest(x.data(), 3, 2)), ElementsAre(1, 0));
  EXPECT_THAT(indices(largest(x.data(), 3, 0)), IsEmpty());
}

TEST(AtLeast, FindsAllOfThemInOrder) {
  const at::Tensor x = at::randn({20000});
  const auto found = at_least(x.const_data_ptr<float>(), 20000, 2.5F);
  const at::Tensor expected = x.ge(2.5F).nonzero().squeeze(1);
  ASSERT_EQ(static_cast<std::int64_t>(found.size()), expected.size(0));
  EXPECT_TRUE(at::tensor(found, at::kLong).equal(expected));
}

TEST(AtLeast, NeverFindsForbiddenNumbers) {
  const float forbidden = -std::numeric_limits<float>::infinity();
  const std::vector<float> x = {forbidden, -1e30F, 4};
  EXPECT_THAT(at_least(x.data(), 3, forbidden), ElementsAre(1, 2));
  EXPECT_THAT(at_least(x.data(), 1, forbidden), IsEmpty());
}

}  // namespace
}  // namespace torchwhisper::kernels
