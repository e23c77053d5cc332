#include "csrc/kernels/words.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace torchwhisper::kernels {
namespace {

class WordsTest : public ::testing::TestWithParam<WordType> {
 protected:
  void SetUp() override {
    if (GetParam() != WordType::kInt8 && !multiplies_fast(GetParam())) {
      GTEST_SKIP() << "this machine does not multiply bfloat16, or not in tiles";
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Words, WordsTest,
                         ::testing::Values(WordType::kInt8, WordType::kBfloat16, WordType::kParts));

TEST_P(WordsTest, MultipliesOddShapes) {
  const WordType type = GetParam();
  for (const std::int64_t rows : {1, 40, 700}) {
    for (const std::int64_t columns : {1, 65, 517}) {
      for (const std::int64_t depth : {1, 385}) {
        const at::Tensor x = at::randn({rows, depth});
        const at::Tensor matrix = at::randn({columns, depth}).to(at::kHalf).to(at::kFloat);
        const at::Tensor bias = at::randn({columns});
        const at::Tensor residual = at::randn({rows, columns});
        const std::int64_t n_column = panel_count(columns) * kPanelWidth;
        std::vector<std::uint32_t> words(
            static_cast<std::size_t>(panels_of_words(type) * words_of(depth, type) * n_column));
        std::vector<float> scale(static_cast<std::size_t>(n_column));
        std::vector<std::int32_t> sums(static_cast<std::size_t>(n_column));
        const WordPanels panels{type, columns, depth, words.data(), scale.data(), sums.data()};
        for (std::int64_t panel = 0; panel < panel_count(columns); ++panel) {
          pack_words(matrix.const_data_ptr<float>() + panel * kPanelWidth * depth, panel, panels);
        }
        at::Tensor y = at::empty({rows, columns});
        multiply_words({x.const_data_ptr<float>(),
                        rows,
                        depth,
                        columns,
                        y.mutable_data_ptr<float>(),
                        {.bias = bias.const_data_ptr<float>(), .residual = residual.const_data_ptr<float>()}},
                       panels);
        const at::Tensor exact = at::matmul(x.to(at::kDouble), matrix.to(at::kDouble).t()) + bias + residual;
        // Each of the `depth` products is off by about a hundredth, most of which cancel; in parts by
        // nothing.
        const double off = type == WordType::kParts ? 2e-6 : 0.1;
        EXPECT_LT((y - exact).abs().max().item<double>(), off * std::sqrt(depth))
            << rows << " " << columns << " " << depth;
      }
    }
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
