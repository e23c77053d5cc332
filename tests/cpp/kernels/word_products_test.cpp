#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "csrc/kernels/words.h"
#include "tests/cpp/kernels/every_isa.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::kernels {
namespace {

using torchwhisper::testing::relative_error;

class WordProducts : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, WordProducts, kEveryIsa, isa_name);

float* data(at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }
const float* data(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }

// A matrix [at most kPanelWidth, depth] as one panel.
class Panel {
 public:
  Panel(const at::Tensor& matrix, WordType type)
      : words_(static_cast<std::size_t>(panels_of_words(type) * words_of(matrix.size(1), type) * kPanelWidth),
               7U),
        scale_(at::full({kPanelWidth}, 7.0F)),
        sums_(kPanelWidth, 7),
        panels_{type, matrix.size(0), matrix.size(1), words_.data(), data(scale_), sums_.data()} {
    pack_words(matrix.contiguous().const_data_ptr<float>(), 0, panels_);
  }

  std::int64_t words() const { return words_of(panels_.depth, panels_.type); }

  // The product by one table, in rows of `columns` + 2 of which the last two are to stay.
  at::Tensor multiply(const KernelTable& table, const at::Tensor& x, Epilogue epilogue = {}) const {
    const std::int64_t rows = x.size(0);
    const std::int64_t part = rows * words();
    std::vector<std::uint32_t> ready(static_cast<std::size_t>(kPartsOfRows * part));
    std::vector<float> row_scale(static_cast<std::size_t>(rows));
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* from = data(x) + row * x.size(1);
      std::uint32_t* to = ready.data() + row * words();
      switch (panels_.type) {
        case WordType::kInt8:
          row_scale[static_cast<std::size_t>(row)] = table.round_row(from, x.size(1), words(), to);
          break;
        case WordType::kBfloat16:
          table.shorten_row(from, x.size(1), words(), to);
          break;
        case WordType::kParts:
          table.split_row(from, x.size(1), words(), part, to);
          break;
      }
    }
    at::Tensor y = at::full({rows, panels_.columns + 2}, 7.0F);
    const auto multiply = panels_.type == WordType::kInt8       ? table.multiply_rounded
                          : panels_.type == WordType::kBfloat16 ? table.multiply_shortened
                                                                : table.multiply_parts;
    multiply({ready.data(),
              words(),
              rows,
              words(),
              words_.data(),
              row_scale.data(),
              data(scale_),
              sums_.data(),
              {data(y), panels_.columns + 2, panels_.columns, epilogue},
              part});
    EXPECT_TRUE(y.slice(1, panels_.columns).eq(7.0F).all().item<bool>()) << "wrote beyond its columns";
    return y.slice(1, 0, panels_.columns);
  }

 private:
  std::vector<std::uint32_t> words_;
  at::Tensor scale_;
  std::vector<std::int32_t> sums_;
  WordPanels panels_;
};

at::Tensor sizes_of(const at::Tensor& rows) { return std::get<0>(rows.abs().max(1, true)); }

// What rounding leaves of rows of x and of columns of a matrix: integers times a scale.
at::Tensor rounded_rows(const at::Tensor& x) {
  const at::Tensor size = sizes_of(x);
  return at::round(x * (127 / size)).to(at::kDouble) * (size / 127);
}
at::Tensor rounded_columns(const at::Tensor& matrix) {
  const at::Tensor scale = sizes_of(matrix) / 127;
  return at::round(matrix / scale).to(at::kDouble) * scale;
}

const std::vector<std::int64_t> kRows{1, 2, 3, 4, 5, 6, 7, 16, 17, 31, 32, 48, 50};

TEST_P(WordProducts, Int8IsTheProductOfWhatRoundingLeaves) {
  for (const std::int64_t rows : kRows) {
    for (const auto& [depth, columns] :
         std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {7, 64}, {64, 63}, {387, 64}}) {
      const at::Tensor x = at::randn({rows, depth}) * at::rand({rows, 1}) * 10;
      const at::Tensor matrix = at::randn({columns, depth}) * at::rand({columns, 1});
      const at::Tensor y = Panel(matrix, WordType::kInt8).multiply(*table_, x);
      const at::Tensor left = rounded_rows(x);
      const at::Tensor right = rounded_columns(matrix);
      const at::Tensor size = at::matmul(left.abs(), right.abs().t());
      EXPECT_LT(((y - at::matmul(left, right.t())).abs() / size).max().item<double>(), 1e-5)
          << rows << " " << depth << " " << columns;
    }
  }
}

TEST_P(WordProducts, Int8IsWithinTheBoundOfRounding) {
  const std::int64_t depth = 384;
  const at::Tensor x = at::randn({17, depth});
  const at::Tensor matrix = at::randn({64, depth});
  const at::Tensor y = Panel(matrix, WordType::kInt8).multiply(*table_, x);
  const at::Tensor exact = at::matmul(x.to(at::kDouble), matrix.to(at::kDouble).t());
  const auto half_step = [](const at::Tensor& of) { return std::get<0>(of.abs().max(1)) / 254; };
  const at::Tensor bound = at::outer(half_step(x), matrix.abs().sum(1)) +
                           at::outer(x.abs().sum(1), half_step(matrix)) +
                           depth * at::outer(half_step(x), half_step(matrix));
  EXPECT_TRUE(((y - exact).abs() <= bound * 1.0001).all().item<bool>());
  EXPECT_LT(relative_error(y, exact), 0.03);
}

// No path may saturate: every pair of products is as large as can be, of one sign and of changing signs.
TEST_P(WordProducts, Int8IsExactAtItsExtremes) {
  const std::int64_t depth = 5120;
  const at::Tensor signs = at::randint(0, 2, {depth}, at::kFloat) * 2 - 1;
  for (const at::Tensor& x : {at::ones({7, depth}), -at::ones({7, depth}), signs.expand({7, depth})}) {
    for (const at::Tensor& matrix :
         {at::ones({64, depth}), -at::ones({64, depth}), signs.expand({64, depth})}) {
      const at::Tensor y = Panel(matrix * 127, WordType::kInt8).multiply(*table_, (x * 127).contiguous());
      EXPECT_TRUE(y.equal(at::matmul(x, matrix.t()) * 127 * 127));
    }
  }
}

TEST_P(WordProducts, Int8IsTheSameToTheLastBit) {
  const KernelTable& plain = *kernels_for(Isa::kBaseline);
  for (const std::int64_t rows : kRows) {
    for (const std::int64_t depth : {5, 66, 1000}) {
      const at::Tensor x = at::randn({rows, depth}) * 3;
      const Panel panel(at::randn({64, depth}), WordType::kInt8);
      EXPECT_TRUE(panel.multiply(*table_, x).equal(panel.multiply(plain, x))) << rows << " " << depth;
    }
  }
}

TEST_P(WordProducts, Int8FinishesProducts) {
  for (const std::int64_t columns : {5, 64}) {
    const at::Tensor x = at::randn({19, 20});
    const at::Tensor matrix = at::randn({columns, 20});
    const at::Tensor bias = at::randn({columns});
    const at::Tensor residual = at::randn({19, columns + 2});
    const Panel panel(matrix, WordType::kInt8);
    const at::Tensor plain = panel.multiply(*table_, x).to(at::kDouble);
    const at::Tensor y =
        panel.multiply(*table_, x, {.bias = data(bias), .gelu = true, .residual = data(residual)});
    EXPECT_LT(relative_error(y, residual.slice(1, 0, columns) + at::gelu(plain + bias)), 5e-5);
  }
}

TEST_P(WordProducts, Int8KeepsZerosAndWhatIsNoNumber) {
  const Panel panel(at::randn({64, 70}), WordType::kInt8);
  EXPECT_TRUE(panel.multiply(*table_, at::zeros({3, 70})).eq(0.0F).all().item<bool>());
  for (const float strange :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor x = at::randn({2, 70});
    x[1][69] = strange;
    const at::Tensor y = panel.multiply(*table_, x);
    EXPECT_TRUE(y[0].isfinite().all().item<bool>());
    EXPECT_FALSE(y[1].isfinite().any().item<bool>());
  }
}

TEST_P(WordProducts, Bfloat16RoundsOnlyItsInputs) {
  if (table_->multiply_shortened == nullptr) {
    GTEST_SKIP() << "this instruction set does not multiply bfloat16";
  }
  for (const std::int64_t rows : kRows) {
    for (const auto& [depth, columns] :
         std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {7, 64}, {64, 63}, {387, 64}}) {
      const at::Tensor x = at::randn({rows, depth});
      const at::Tensor matrix = at::randn({columns, depth});
      const at::Tensor bias = at::randn({columns});
      const at::Tensor y = Panel(matrix, WordType::kBfloat16).multiply(*table_, x, {.bias = data(bias)});
      const auto half = [](const at::Tensor& of) { return of.to(at::kBFloat16).to(at::kDouble); };
      const at::Tensor size = at::matmul(x.abs(), matrix.abs().t()) + bias.abs();
      const at::Tensor exact = at::matmul(half(x), half(matrix).t()) + bias;
      EXPECT_LT(((y - exact).abs() / size).max().item<double>(), 2e-6) << rows << " " << depth;
    }
  }
}

// As exact as sums in float32 are, with numbers of very different sizes and a GELU that is the exact one.
TEST_P(WordProducts, PartsLoseNothing) {
  if (table_->multiply_parts == nullptr) {
    GTEST_SKIP() << "this instruction set has no tiles";
  }
  for (const std::int64_t rows : kRows) {
    for (const auto& [depth, columns] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {7, 64}, {64, 63}, {387, 64}, {1536, 64}}) {
      const at::Tensor x = at::randn({rows, depth}) * at::exp(4 * at::randn({rows, depth}));
      const at::Tensor spread = at::exp(2 * at::randn({columns, depth}));
      const at::Tensor matrix = (at::randn({columns, depth}) * spread).to(at::kHalf).to(at::kFloat);
      const at::Tensor bias = at::randn({columns});
      const at::Tensor residual = at::randn({rows, columns + 2});
      const Panel panel(matrix, WordType::kParts);
      const at::Tensor product = at::matmul(x.to(at::kDouble), matrix.to(at::kDouble).t()) + bias;
      const at::Tensor size = at::matmul(x.abs(), matrix.abs().t()) + bias.abs();
      const auto error = [&size](const at::Tensor& y, const at::Tensor& exact) {
        return ((y - exact).abs() / (size + 1)).max().item<double>();
      };
      EXPECT_LT(error(panel.multiply(*table_, x, {.bias = data(bias)}), product), 2e-6)
          << rows << " " << depth << " " << columns;
      const at::Tensor finished =
          panel.multiply(*table_, x, {.bias = data(bias), .gelu = true, .residual = data(residual)});
      EXPECT_LT(error(finished, at::gelu(product) + residual.slice(1, 0, columns)), 2e-6)
          << rows << " " << depth << " " << columns;
    }
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
