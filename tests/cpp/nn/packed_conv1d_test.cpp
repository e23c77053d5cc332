#include "csrc/nn/packed_conv1d.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::relative_error;

class PackedConv1dTest : public ::testing::TestWithParam<ComputeType> {
 protected:
  const double tolerance = GetParam() == ComputeType::kFloat32 ? 2e-6 : 1e-2;
};
INSTANTIATE_TEST_SUITE_P(Types, PackedConv1dTest,
                         ::testing::Values(ComputeType::kFloat32, ComputeType::kInt8));

TEST_P(PackedConv1dTest, IsTheConvolutionWithPadding) {
  WeightArena arena;
  for (const std::int64_t n_in : {1, 5, 6, 80}) {
    for (const std::int64_t stride : {1, 2}) {
      const at::Tensor x = at::randn({2, 40, n_in});
      const at::Tensor any = at::randn({70, n_in, 3});
      const at::Tensor bias = at::randn({70});
      const at::Tensor residual = at::randn({40 / stride, 70});
      for (const at::Tensor& weight : {any, any.to(at::kHalf).to(at::kFloat)}) {
        const PackedConv1d packed(weight, bias, stride, GetParam(), arena);
        const at::Tensor room = at::full({2, 43, 70}, 7.0F);
        const at::Tensor y = room.narrow(1, 1, 40 / stride);
        packed.forward_gelu(at::constant_pad_nd(x, {0, 0, 1, 1}), residual, y);
        const at::Tensor exact =
            at::gelu(at::conv1d(x.transpose(1, 2).to(at::kDouble), weight.to(at::kDouble),
                                bias.to(at::kDouble), stride, /*padding=*/1))
                .transpose(1, 2);
        EXPECT_LT(relative_error(y, exact + residual), tolerance) << n_in << " " << stride;
        EXPECT_TRUE(room.select(1, 0).eq(7.0F).all().item<bool>());
        EXPECT_TRUE(room.narrow(1, 1 + 40 / stride, 1).eq(7.0F).all().item<bool>());
      }
    }
  }
}

}  // namespace
}  // namespace torchwhisper::nn
