#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "csrc/kernels/panels.h"
#include "csrc/kernels/table.h"
#include "tests/cpp/kernels/every_isa.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::kernels {
namespace {

using torchwhisper::testing::relative_error;

class Products : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Products, kEveryIsa, isa_name);

float* data(at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }
const float* data(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }

TEST_P(Products, MultipliesOddShapes) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 13}) {
    for (const std::int64_t depth : {1, 7, 64, 385}) {
      for (const std::int64_t columns : {1, 63, 64}) {
        const at::Tensor x = at::randn({rows, depth + 3});
        const at::Tensor matrix = at::randn({columns, depth});
        const at::Tensor bias = at::randn({columns});
        at::Tensor panel = at::empty({depth, kPanelWidth});
        pack_panels(data(matrix), depth, columns, depth, data(panel));
        at::Tensor y = at::full({rows, columns + 2}, 7.0F);
        table_->multiply(
            {data(x), depth + 3, rows, depth, data(y), columns + 2, columns, {.bias = data(bias)}},
            data(panel));
        const at::Tensor exact =
            at::matmul(x.slice(1, 0, depth).to(at::kDouble), matrix.to(at::kDouble).t()) + bias;
        const at::Tensor magnitude = at::matmul(x.slice(1, 0, depth).abs(), matrix.abs().t()) + bias.abs();
        EXPECT_LT(((y.slice(1, 0, columns) - exact).abs() / magnitude).max().item<double>(), 1e-6)
            << rows << " " << depth;
        EXPECT_TRUE(y.slice(1, columns).eq(7.0F).all().item<bool>()) << "wrote beyond its columns";
      }
    }
  }
}

TEST_P(Products, FinishesProducts) {
  for (const std::int64_t columns : {5, 64}) {
    const at::Tensor x = at::randn({3, 20});
    const at::Tensor matrix = at::randn({columns, 20});
    const at::Tensor bias = at::randn({columns});
    const at::Tensor residual = at::randn({3, columns});
    at::Tensor panel = at::empty({20, kPanelWidth});
    pack_panels(data(matrix), 20, columns, 20, data(panel));
    at::Tensor y = at::empty({3, columns});
    table_->multiply({data(x),
                      20,
                      3,
                      20,
                      data(y),
                      columns,
                      columns,
                      {.bias = data(bias), .gelu = true, .residual = data(residual)}},
                     data(panel));
    const at::Tensor product = at::matmul(x.to(at::kDouble), matrix.to(at::kDouble).t()) + bias;
    EXPECT_LT(relative_error(y, residual + at::gelu(product)), 1e-6);
  }
}

TEST_P(Products, GeluIsTheExactOne) {
  const at::Tensor x = at::linspace(-12, 12, kPanelWidth * 40).view({40, kPanelWidth});
  const at::Tensor identity = at::eye(kPanelWidth);
  at::Tensor y = at::empty_like(x);
  table_->multiply({data(x), kPanelWidth, 40, kPanelWidth, data(y), kPanelWidth, kPanelWidth, {.gelu = true}},
                   data(identity));
  EXPECT_LT((y - at::gelu(x.to(at::kDouble))).abs().max().item<double>(), 1e-6);
}

// The smallest and the largest that float16 has, both zeros, and what has fewer digits.
TEST_P(Products, MultipliesHalfAsFloat32) {
  for (const std::int64_t rows : {1, 2, 5, 9}) {
    const std::int64_t depth = 387;
    const at::Tensor x = at::randn({rows, depth});
    at::Tensor panel = at::randn({depth, kPanelWidth}).to(at::kHalf);
    panel[3].copy_(at::randn({kPanelWidth}) * 1e-6F);
    panel[4].fill_(65504.0F);
    panel[5].fill_(-0.0F);
    panel[6].zero_();
    const at::Tensor wide = panel.to(at::kFloat);
    at::Tensor y = at::empty({rows, kPanelWidth});
    at::Tensor expected = at::empty_like(y);
    table_->multiply_half({data(x), depth, rows, depth, data(y), kPanelWidth, kPanelWidth},
                          static_cast<const std::uint16_t*>(panel.const_data_ptr()));
    table_->multiply({data(x), depth, rows, depth, data(expected), kPanelWidth, kPanelWidth}, data(wide));
    EXPECT_TRUE(y.equal(expected));
  }
}

TEST_P(Products, MultipliesBfloat16WithoutRoundingTheInput) {
  for (const std::int64_t rows : {1, 2, 5, 9}) {
    const std::int64_t depth = 387;
    const at::Tensor x = at::randn({rows, depth});
    const at::Tensor panel = at::randn({depth, kPanelWidth}).to(at::kBFloat16);
    at::Tensor y = at::empty({rows, kPanelWidth});
    table_->multiply_bfloat16({data(x), depth, rows, depth, data(y), kPanelWidth, kPanelWidth},
                              static_cast<const std::uint16_t*>(panel.const_data_ptr()));
    EXPECT_LT(relative_error(y, at::matmul(x.to(at::kDouble), panel.to(at::kDouble))), 2e-6);
  }
}

TEST_P(Products, MultipliesInt8WithoutRoundingTheInput) {
  for (const std::int64_t rows : {1, 2, 5, 9}) {
    const std::int64_t depth = 387;
    const at::Tensor x = at::randn({rows, depth});
    const at::Tensor panel = at::randint(-127, 128, {depth, kPanelWidth}, at::kChar);
    const at::Tensor scale = at::rand({kPanelWidth});
    at::Tensor y = at::empty({rows, kPanelWidth});
    table_->multiply_int8({data(x), depth, rows, depth, data(y), kPanelWidth, kPanelWidth},
                          panel.const_data_ptr<std::int8_t>(), data(scale));
    const at::Tensor exact = at::matmul(x.to(at::kDouble), panel.to(at::kDouble)) * scale;
    EXPECT_LT(relative_error(y, exact), 2e-6);
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
