#include "csrc/kernels/panels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::kernels {
namespace {

using torchwhisper::testing::relative_error;

struct Rounded {
  at::Tensor panels;
  at::Tensor scale;
  at::Tensor distance;

  explicit Rounded(const at::Tensor& matrix)
      : panels(at::full({panels_size(matrix.size(0), matrix.size(1))}, 99, at::kChar)),
        scale(at::empty({panel_count(matrix.size(0)) * kPanelWidth})),
        distance(at::empty_like(scale)) {
    pack_panels_int8(matrix.const_data_ptr<float>(), matrix.size(0), matrix.size(1),
                     {panels.mutable_data_ptr<std::int8_t>(), scale.mutable_data_ptr<float>(),
                      distance.mutable_data_ptr<float>()});
  }

  // The matrix that the panels stand for, [columns, depth].
  at::Tensor matrix(std::int64_t columns, std::int64_t depth) const {
    const at::Tensor all =
        panels.view({-1, depth, kPanelWidth}).transpose(1, 2).reshape({-1, depth}).to(at::kFloat);
    return (all * scale.unsqueeze(1)).slice(0, 0, columns);
  }
};

TEST(Panels, MultiplyOddShapes) {
  for (const std::int64_t rows : {1, 5, 40}) {
    for (const std::int64_t columns : {1, 64, 65, 517}) {
      for (const std::int64_t depth : {1, 33, 384}) {
        const at::Tensor x = at::randn({rows, depth});
        const at::Tensor matrix = at::randn({columns, depth});
        const at::Tensor bias = at::randn({columns});
        at::Tensor panels = at::full({panels_size(columns, depth)}, 99.0F);
        pack_panels(matrix.const_data_ptr<float>(), depth, columns, depth, panels.mutable_data_ptr<float>());
        at::Tensor y = at::empty({rows, columns});
        multiply_panels({x.const_data_ptr<float>(),
                         rows,
                         depth,
                         columns,
                         y.mutable_data_ptr<float>(),
                         {.bias = bias.const_data_ptr<float>()}},
                        panels.const_data_ptr<float>());
        const at::Tensor exact = at::matmul(x.to(at::kDouble), matrix.to(at::kDouble).t()) + bias;
        // Of the sum of magnitudes: a single result may be close to zero.
        const at::Tensor magnitude = at::matmul(x.abs(), matrix.abs().t()) + bias.abs();
        EXPECT_LT(((y - exact).abs() / magnitude).max().item<double>(), 1e-6)
            << rows << " " << columns << " " << depth;
      }
    }
  }
}

TEST(Panels, Int8StaysWithinHalfAStep) {
  const at::Tensor matrix = at::randn({130, 77}) * at::rand({130, 1});
  const Rounded rounded(matrix);
  const at::Tensor moved = (rounded.matrix(130, 77) - matrix).abs();
  EXPECT_TRUE((moved <= 0.5001 * rounded.scale.slice(0, 0, 130).unsqueeze(1)).all().item<bool>());
  EXPECT_LT(relative_error(rounded.distance.slice(0, 0, 130), moved.norm(2, 1)), 1e-4);
}

TEST(Panels, Int8OfZerosAndOfWhatIsNoNumber) {
  at::Tensor matrix = at::zeros({3, 8});
  matrix[1][2] = std::numeric_limits<float>::quiet_NaN();
  matrix[2][0] = std::numeric_limits<float>::infinity();
  const Rounded rounded(matrix);
  EXPECT_EQ(rounded.distance[0].item<float>(), 0.0F);
  EXPECT_FALSE(rounded.distance.slice(0, 1, 3).isfinite().any().item<bool>());
}

TEST(Panels, MultiplyInt8) {
  const at::Tensor matrix = at::randn({200, 51});
  const Rounded rounded(matrix);
  const at::Tensor x = at::randn({3, 51});
  at::Tensor y = at::empty({3, 200});
  multiply_panels_int8({x.const_data_ptr<float>(), 3, 51, 200, y.mutable_data_ptr<float>()},
                       rounded.panels.const_data_ptr<std::int8_t>(), rounded.scale.const_data_ptr<float>());
  const at::Tensor exact = at::matmul(x.to(at::kDouble), rounded.matrix(200, 51).to(at::kDouble).t());
  EXPECT_LT(relative_error(y, exact), 2e-6);
}

}  // namespace
}  // namespace torchwhisper::kernels
