#include "csrc/kernels/dense_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "csrc/kernels/words.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::kernels {
namespace {

using torchwhisper::testing::relative_error;

// In float32 and in bfloat16.
class DenseAttentionTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam() && !multiplies_fast(WordType::kBfloat16)) {
      GTEST_SKIP() << "this machine does not multiply bfloat16";
    }
  }
};
INSTANTIATE_TEST_SUITE_P(InBfloat16, DenseAttentionTest, ::testing::Bool());

TEST_P(DenseAttentionTest, EqualsTheFormula) {
  for (const std::int64_t batch : {1, 2}) {
    for (const std::int64_t time : {1, 5, 64, 129, 300}) {
      for (const auto& [n_head, dim] :
           std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 64}, {3, 20}, {2, 3}}) {
        const std::int64_t state = n_head * dim;
        const at::Tensor projected = at::randn({batch, time, 3 * state}) * 2;
        const float* q = projected.const_data_ptr<float>();
        at::Tensor y = at::full({batch, time, state}, 7.0F);
        attend_densely({q, q + state, q + 2 * state, 3 * state, batch, time, n_head, dim, 0.25F,
                        y.mutable_data_ptr<float>()},
                       GetParam());
        const auto head = [&](std::int64_t part) {
          at::Tensor rows = projected.slice(2, part * state, (part + 1) * state).to(at::kDouble);
          rows = GetParam() ? rows.to(at::kBFloat16).to(at::kDouble) : rows;
          return rows.unflatten(2, {n_head, dim}).transpose(1, 2);
        };
        const at::Tensor weights = at::softmax(at::matmul(head(0), head(1).transpose(2, 3)) * 0.25, -1);
        const at::Tensor exact = at::matmul(weights, head(2)).transpose(1, 2).flatten(2);
        // Scores of up to 60 in float32 have weights that are off by 60 times its rounding.
        EXPECT_LT(relative_error(y, exact), GetParam() ? 5e-3 : 7e-6) << time << " " << dim;
      }
    }
  }
}

TEST_P(DenseAttentionTest, OneKeyMayOutweighAllOthers) {
  const std::int64_t time = 200;
  at::Tensor projected = at::zeros({time, 3 * 64});
  projected.select(1, 0).fill_(100.0F);  // every query looks along the first axis
  projected[150][64] = 100.0F;           // and so does this key
  projected.slice(1, 128).copy_(at::arange(time).unsqueeze(1).expand({time, 64}));
  const float* q = projected.const_data_ptr<float>();
  at::Tensor y = at::empty({time, 64});
  attend_densely({q, q + 64, q + 128, 3 * 64, 1, time, 1, 64, 1.0F, y.mutable_data_ptr<float>()}, GetParam());
  EXPECT_TRUE(y.eq(150.0F).all().item<bool>());
}

}  // namespace
}  // namespace torchwhisper::kernels
