#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "csrc/kernels/table.h"
#include "tests/cpp/kernels/every_isa.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::kernels {
namespace {

using torchwhisper::testing::relative_error;

class NumberRows : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, NumberRows, kEveryIsa, isa_name);

float* data(at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }
const float* data(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }

TEST_P(NumberRows, RowsOfEveryLength) {
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
    // Numbers near 1000 are known to 6e-5 each, however close to each other they are.
    const double spread = far.to(at::kDouble).std(/*unbiased=*/false).item<double>() + 1e-2;
    EXPECT_LT(((normalized - exact).abs() / (gain.abs() + y.abs())).max().item<double>(),
              1e-4 * (1 + 10 / spread))
        << n;
  }
}

TEST_P(NumberRows, SumsAWholeVocabulary) {
  const at::Tensor x = at::randn({51865}) * 4;
  EXPECT_NEAR(table_->log_sum_exp(data(x), 51865), x.to(at::kDouble).logsumexp(0).item<double>(), 2e-5);
}

TEST_P(NumberRows, ForbiddenNumbersWeighNothing) {
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

TEST_P(NumberRows, SumsOfNanAreNan) {
  for (const std::int64_t n : {1, 40, 1501}) {
    for (const std::int64_t place : {std::int64_t{0}, n / 2, n - 1}) {
      at::Tensor x = at::randn({n});
      x[place] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_TRUE(std::isnan(table_->log_sum_exp(data(x), n))) << n << " " << place;
      EXPECT_TRUE(std::isnan(table_->exponentials(data(x), n, 1.0F))) << n << " " << place;
    }
  }
}

TEST_P(NumberRows, ExponentialsKeepTheirDigits) {
  for (double t = 0.0; t < 80.0; t += 0.37) {
    float pair[] = {static_cast<float>(-t), 0.0F};
    table_->exponentials(pair, 2, 1.0F);
    const double weight = std::exp(static_cast<double>(static_cast<float>(-t)));
    EXPECT_NEAR(pair[0], weight, 4e-7 * weight) << t;
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
