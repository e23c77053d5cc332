#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "csrc/kernels/panels.h"
#include "csrc/kernels/table.h"
#include "tests/cpp/kernels/every_isa.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::kernels {
namespace {

using torchwhisper::testing::relative_error;

INSTANTIATE_TEST_SUITE_P(Isa, EveryIsa, kEveryIsa, isa_name);

float* data(at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }
const float* data(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }

TEST_P(EveryIsa, MultipliesOddShapes) {
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

TEST_P(EveryIsa, FinishesProducts) {
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

TEST_P(EveryIsa, GeluIsTheExactOne) {
  const at::Tensor x = at::linspace(-12, 12, kPanelWidth * 40).view({40, kPanelWidth});
  const at::Tensor identity = at::eye(kPanelWidth);
  at::Tensor y = at::empty_like(x);
  table_->multiply({data(x), kPanelWidth, 40, kPanelWidth, data(y), kPanelWidth, kPanelWidth, {.gelu = true}},
                   data(identity));
  EXPECT_LT((y - at::gelu(x.to(at::kDouble))).abs().max().item<double>(), 1e-6);
}

TEST_P(EveryIsa, MultipliesBfloat16WithoutRoundingTheInput) {
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

TEST_P(EveryIsa, MultipliesInt8WithoutRoundingTheInput) {
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

TEST_P(EveryIsa, RowsOfEveryLength) {
  for (const std::int64_t n : {1, 2, 15, 16, 17, 31, 33, 64, 1500}) {
    const at::Tensor x = at::randn({n}) * 10;
    const at::Tensor y = at::randn({n});
    EXPECT_EQ(table_->maximum(data(x), n), x.max().item<float>()) << n;
    EXPECT_NEAR(table_->log_sum_exp(data(x), n), x.to(at::kDouble).logsumexp(0).item<double>(), 1e-5) << n;
    const at::Tensor products = x.to(at::kDouble) * y;
    EXPECT_NEAR(table_->dot(data(x), data(y), n), products.sum().item<double>(),
                1e-6 * products.abs().sum().item<double>())
        << n;
    at::Tensor weights = x.clone();
    const float sum = table_->exponentials(data(weights), n, 0.3F);
    EXPECT_LT(relative_error(weights / sum, (x.to(at::kDouble) * 0.3).softmax(0)), 2e-6) << n;
    const at::Tensor gain = at::randn({n});
    at::Tensor normalized = at::empty({n});
    const at::Tensor far = x + 1000;
    table_->layer_norm(data(far), n, data(gain), data(y), 1e-5F, data(normalized));
    const at::Tensor exact =
        at::layer_norm(far.to(at::kDouble), {n}, gain.to(at::kDouble), y.to(at::kDouble));
    EXPECT_LT(((normalized - exact).abs() / (gain.abs() + y.abs())).max().item<double>(), 1e-4) << n;
  }
}

TEST_P(EveryIsa, SumsAWholeVocabulary) {
  const at::Tensor x = at::randn({51865}) * 4;
  EXPECT_NEAR(table_->log_sum_exp(data(x), 51865), x.to(at::kDouble).logsumexp(0).item<double>(), 2e-5);
}

TEST_P(EveryIsa, ForbiddenNumbersWeighNothing) {
  const float forbidden = -std::numeric_limits<float>::infinity();
  for (const std::int64_t n : {3, 40, 1501}) {
    at::Tensor x = at::full({n}, forbidden);
    x[n / 2] = -3.5F;
    EXPECT_EQ(table_->log_sum_exp(data(x), n), -3.5F);
    EXPECT_EQ(table_->exponentials(data(x), n, 1.0F), 1.0F);
    EXPECT_EQ(x[n / 2].item<float>(), 1.0F);
    EXPECT_EQ(x.sum().item<float>(), 1.0F);
  }
}

TEST_P(EveryIsa, ExponentialsKeepTheirDigits) {
  for (double t = 0.0; t < 80.0; t += 0.37) {
    float pair[] = {static_cast<float>(-t), 0.0F};
    table_->exponentials(pair, 2, 1.0F);
    const double weight = std::exp(static_cast<double>(static_cast<float>(-t)));
    EXPECT_NEAR(pair[0], weight, 4e-7 * weight) << t;
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
