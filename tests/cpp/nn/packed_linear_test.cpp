#include "csrc/nn/packed_linear.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::error_of_sums;
using torchwhisper::testing::relative_error;

class PackedLinearTest : public ::testing::TestWithParam<Rows> {
 protected:
  Rows rows = GetParam();
  WeightArena arena;
};
INSTANTIATE_TEST_SUITE_P(Rows, PackedLinearTest,
                         ::testing::Values(Rows::kMany, Rows::kFew, Rows::kOverlapping));

TEST_P(PackedLinearTest, IsExactOnOddShapes) {
  for (const std::int64_t n_rows : {1, 2, 5, 17, 130}) {
    for (const auto& [n_in, n_out] :
         std::vector<std::pair<std::int64_t, std::int64_t>>{{7, 13}, {64, 1}, {33, 517}}) {
      const at::Tensor x = at::randn({n_rows, n_in});
      const at::Tensor any = at::randn({n_out, n_in});
      const at::Tensor bias = at::randn({n_out});
      for (const at::Tensor& weight : {any, any.to(at::kHalf).to(at::kFloat)}) {
        const PackedLinear with_bias(weight, bias, at::kFloat, rows, arena);
        const PackedLinear without(weight, {}, at::kFloat, rows, arena);
        EXPECT_LT(error_of_sums(with_bias.forward(x), x, weight, bias), 5e-7);
        EXPECT_LT(error_of_sums(without.forward(x), x, weight), 5e-7);
      }
    }
  }
}

TEST_P(PackedLinearTest, GeluIsTheExactOne) {
  const at::Tensor x = at::randn({9, 33});
  const at::Tensor weight = at::randn({70, 33});
  const at::Tensor bias = at::randn({70});
  const at::Tensor wide = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()) + bias;
  const at::Tensor exact = at::gelu(wide);
  EXPECT_LT(relative_error(PackedLinear(weight, bias, at::kFloat, rows, arena).forward_gelu(x), exact), 2e-6);
  const PackedLinear half(weight, bias, at::kBFloat16, Rows::kFew, arena);
  EXPECT_LT(relative_error(half.forward_gelu(x.to(at::kBFloat16)), exact), 0.02);
}

TEST_P(PackedLinearTest, AddsTheResidual) {
  const PackedLinear packed(at::randn({70, 33}), at::randn({70}), at::kFloat, rows, arena);
  const at::Tensor x = at::randn({2, 5, 33});
  const at::Tensor residual = at::randn({5, 2, 70}).transpose(0, 1);
  EXPECT_LT(relative_error(packed.forward_add(x, residual), residual + packed.forward(x)), 1e-6);
}

TEST(PackedLinear, LosesNothingOfWeightsThatFloat16Holds) {
  WeightArena arena;
  for (const auto& [n_in, n_out] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{7, 13}, {64, 128}, {33, 517}}) {
    const at::Tensor x = at::randn({5, n_in});
    const at::Tensor half = at::randn({n_out, n_in}).to(at::kHalf);
    at::Tensor nearly = half.to(at::kFloat);
    const at::Tensor expected = PackedLinear(nearly.clone(), {}, at::kFloat, Rows::kFew, arena).forward(x);
    EXPECT_LT(error_of_sums(expected, x, nearly), 5e-7);
    EXPECT_TRUE(PackedLinear(half, {}, at::kFloat, Rows::kFew, arena).forward(x).equal(expected));
    // The last weight has a digit more: all are kept in float32.
    nearly[n_out - 1][n_in - 1] += 1e-5F;
    const at::Tensor other = PackedLinear(nearly, {}, at::kFloat, Rows::kFew, arena).forward(x);
    EXPECT_TRUE(other.slice(1, 0, n_out - 1).equal(expected.slice(1, 0, n_out - 1)));
    EXPECT_LT(error_of_sums(other, x, nearly), 5e-7);
    EXPECT_FALSE(other.equal(expected));
  }
}

// The threads that lay the panels out are not in the mode of the caller.
TEST(PackedLinear, IsMadeInInferenceMode) {
  const c10::InferenceMode guard;
  WeightArena arena;
  const at::Tensor x = at::randn({2, 64});
  const at::Tensor weight = at::randn({1000, 64}).to(at::kHalf).to(at::kFloat);
  for (const Rows rows : {Rows::kMany, Rows::kFew, Rows::kOverlapping}) {
    EXPECT_LT(error_of_sums(PackedLinear(weight, {}, at::kFloat, rows, arena).forward(x), x, weight), 5e-7);
  }
}

TEST(PackedLinear, KeepsWhatFloat16DoesNotHold) {
  WeightArena arena;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float odd : {70000.0F, 1e-9F, kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    const at::Tensor x = at::ones({2, 40});
    at::Tensor weight = at::zeros({70, 40});
    weight[69][39] = odd;
    const at::Tensor y = PackedLinear(weight, {}, at::kFloat, Rows::kFew, arena).forward(x);
    EXPECT_TRUE(y.allclose(at::linear(x, weight), 1e-6, 0, /*equal_nan=*/true)) << odd;
  }
}

TEST(PackedLinear, RoundsToTheTypeOfProducts) {
  WeightArena arena;
  for (const ComputeType type : {ComputeType::kBFloat16, ComputeType::kInt8}) {
    if (!compute_type_obstacle(type).empty()) {
      continue;
    }
    for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
      const at::Tensor x = at::randn({2, 5, 33});
      const at::Tensor weight = at::randn({517, 33}).to(dtype);
      const at::Tensor bias = at::randn({517}).to(dtype);
      const PackedLinear packed(weight, bias, {at::kFloat, type}, Rows::kMany, arena);
      const at::Tensor exact = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()) + bias;
      EXPECT_LT(relative_error(packed.forward(x), exact), 0.03);
      EXPECT_LT(relative_error(packed.forward_gelu(x), at::gelu(exact)), 0.03);
      EXPECT_LT(
          relative_error(packed.forward_add(x, x.sum(2, true).expand({2, 5, 517})), exact + x.sum(2, true)),
          0.03);
    }
  }
}

TEST_P(PackedLinearTest, KeepsLeadingDimensions) {
  const PackedLinear packed(at::randn({6, 4}), at::randn({6}), at::kFloat, rows, arena);
  EXPECT_EQ(packed.forward(at::randn({2, 3, 4})).sizes(), at::IntArrayRef({2, 3, 6}));
}

TEST_P(PackedLinearTest, CastsToTheTypeAskedFor) {
  const at::Tensor weight = at::randn({6, 4});
  const at::Tensor x = at::randn({3, 4});
  const at::Tensor y =
      PackedLinear(weight, {}, at::kBFloat16, Rows::kFew, arena).forward(x.to(at::kBFloat16));
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_LT(relative_error(y, at::matmul(x, weight.t())), 0.02);
}

TEST_P(PackedLinearTest, DoesNotFollowTheWeights) {
  const at::Tensor weight = at::randn({6, 4});
  const at::Tensor x = at::randn({3, 4});
  const PackedLinear packed(weight, {}, at::kFloat, rows, arena);
  const at::Tensor before = packed.forward(x);
  weight.zero_();
  EXPECT_TRUE(packed.forward(x).equal(before));
}

}  // namespace
}  // namespace torchwhisper::nn
