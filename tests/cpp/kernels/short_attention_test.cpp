#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "csrc/kernels/words.h"
#include "tests/cpp/kernels/every_isa.h"

namespace torchwhisper::kernels {
namespace {

// What is rounded to bfloat16 is off by up to 1/256 of itself: a weight and a value, or a weight whose
// logarithm was rounded too.
constexpr double kRounding = 0.009;

// The words of a matrix [columns, depth] in panels.
at::Tensor words_in_panels(const at::Tensor& matrix) {
  const std::int64_t n_panel = panel_count(matrix.size(0));
  at::Tensor words =
      at::empty({n_panel, words_of(matrix.size(1), WordType::kBfloat16), kPanelWidth}, at::kInt);
  const WordPanels packed{WordType::kBfloat16,
                          matrix.size(0),
                          matrix.size(1),
                          static_cast<std::uint32_t*>(words.mutable_data_ptr()),
                          nullptr,
                          nullptr};
  for (std::int64_t panel = 0; panel < n_panel; ++panel) {
    const at::Tensor rows = matrix.slice(0, panel * kPanelWidth, (panel + 1) * kPanelWidth).contiguous();
    pack_words(rows.const_data_ptr<float>(), panel, packed);
  }
  return words;
}

class ShortAttentions : public EveryIsa {
 protected:
  void SetUp() override {
    EveryIsa::SetUp();
    if (table_ != nullptr && table_->attend_shortened == nullptr) {
      GTEST_SKIP() << "this instruction set does not multiply bfloat16";
    }
  }

  // q: [rows, dim], k and v: [time, dim] -> [rows, dim].
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, float scale) const {
    const std::int64_t rows = q.size(0);
    const std::int64_t dim = q.size(1);
    const std::int64_t time = k.size(0);
    const std::int64_t time_words = words_of(time, WordType::kBfloat16);
    const at::Tensor keys = words_in_panels(k);
    const at::Tensor values = words_in_panels(v.t());
    at::Tensor scratch = at::full({3 * kShortQueries * time_words}, std::nanf(""));
    at::Tensor y = at::full({rows, dim + 2}, 7.0F);
    table_->attend_shortened({q.const_data_ptr<float>(), dim, rows, dim, words_of(dim, WordType::kBfloat16),
                              time, time_words, static_cast<const std::uint32_t*>(keys.const_data_ptr()),
                              static_cast<const std::uint32_t*>(values.const_data_ptr()), scale,
                              y.mutable_data_ptr<float>(), dim + 2, scratch.mutable_data_ptr<float>()});
    EXPECT_TRUE(y.slice(1, dim).eq(7.0F).all().item<bool>()) << "wrote beyond its columns";
    return y.slice(1, 0, dim);
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, ShortAttentions, kEveryIsa, isa_name);

TEST_P(ShortAttentions, AreTheFormulaOfWhatRoundingLeaves) {
  const auto half = [](const at::Tensor& of) { return of.to(at::kBFloat16).to(at::kDouble); };
  for (const std::int64_t rows : {1, 17, 32}) {
    for (const std::int64_t time : {1, 16, 33, 64, 130, 300}) {
      for (const std::int64_t dim : {1, 20, 40, 64}) {
        const at::Tensor q = at::randn({rows, dim}) * 2;
        const at::Tensor k = at::randn({time, dim}) * 2;
        const at::Tensor v = at::randn({time, dim});
        const at::Tensor weights = at::softmax(at::matmul(half(q), half(k).t()) * 0.25, -1);
        const at::Tensor error = (attend(q, k, v, 0.25F) - at::matmul(weights, half(v))).abs();
        EXPECT_LT((error / at::matmul(weights, half(v).abs())).max().item<double>(), kRounding)
            << rows << " " << time << " " << dim;
      }
    }
  }
}

// Each weight is within the digits of bfloat16 of its exponential, however far below the largest.
TEST_P(ShortAttentions, WeighByExponentials) {
  constexpr std::int64_t kTime = 64;
  for (const float step : {0.001F, 0.37F, 1.3F}) {
    const at::Tensor scores = (at::arange(kTime).to(at::kFloat) * -step).to(at::kBFloat16).to(at::kFloat);
    const at::Tensor shuffled = scores.index({at::randperm(kTime)});
    const at::Tensor y = attend(at::ones({1, 1}), shuffled.unsqueeze(1).expand({kTime, 1}).contiguous(),
                                at::ones({kTime, 1}), 1.0F);
    EXPECT_NEAR(y.item<float>(), 1.0F, 1e-6);
    const at::Tensor weights =
        attend(at::ones({1, kTime}) / kTime, shuffled.unsqueeze(1).expand({kTime, kTime}).contiguous(),
               at::eye(kTime), 1.0F);
    const at::Tensor exact = at::softmax(shuffled.to(at::kDouble), 0);
    EXPECT_TRUE(((weights - exact).abs() <= exact * kRounding + 1e-30).all().item<bool>()) << step;
  }
}

TEST_P(ShortAttentions, KeepScoresFarFromZeroApart) {
  for (const float size : {-3000.0F, 3000.0F}) {
    const at::Tensor k = at::full({5, 1}, size);
    const at::Tensor v = at::randn({5, 3});
    const at::Tensor y = attend(at::ones({2, 3}), k.expand({5, 3}).contiguous(), v, 1.0F);
    EXPECT_LT(((y - v.mean(0)).abs() / v.abs().mean(0)).max().item<double>(), kRounding) << size;
  }
}

TEST_P(ShortAttentions, WhatIsNoNumberStaysInItsRow) {
  at::Tensor q = at::randn({3, 64});
  q[1][5] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor y = attend(q, at::randn({40, 64}), at::randn({40, 64}), 0.125F);
  EXPECT_TRUE(y[0].isfinite().all().item<bool>());
  EXPECT_FALSE(y[1].isfinite().any().item<bool>());
  EXPECT_TRUE(y[2].isfinite().all().item<bool>());
}

}  // namespace
}  // namespace torchwhisper::kernels
