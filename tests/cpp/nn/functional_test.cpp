#include "csrc/nn/functional.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/cpp/random_model.h"

namespace torchwhisper::nn::functional {
namespace {

using torchwhisper::testing::relative_error;

at::Tensor exact_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
  at::Tensor scores = at::matmul(q.to(at::kDouble), k.to(at::kDouble).transpose(-1, -2)) /
                      std::sqrt(static_cast<double>(q.size(-1)));
  if (causal) {
    scores = scores + causal_mask(q.size(-2)).to(at::kDouble);
  }
  return at::matmul(at::softmax(scores, -1), v.to(at::kDouble));
}

TEST(Functional, LinearCastsTheWeights) {
  const at::Tensor x = at::randn({3, 5});
  const at::Tensor weight = at::randn({7, 5});
  const at::Tensor bias = at::randn({7});
  const at::Tensor exact = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()) + bias;
  EXPECT_LT(relative_error(linear(x, weight, bias), exact), 1e-6);
  const at::Tensor half = linear(x.to(at::kBFloat16), weight, bias);
  EXPECT_EQ(half.scalar_type(), at::kBFloat16);
  EXPECT_LT(relative_error(half, exact), 0.02);
}

TEST(Functional, LayerNormComputesInFloat) {
  const at::Tensor x = at::randn({4, 9}) * 30 + 100;
  const at::Tensor weight = at::randn({9});
  const at::Tensor bias = at::randn({9});
  const at::Tensor wide = x.to(at::kDouble);
  const at::Tensor centred = wide - wide.mean(-1, /*keepdim=*/true);
  const at::Tensor exact =
      centred / (centred.square().mean(-1, /*keepdim=*/true) + 1e-5).sqrt() * weight + bias;
  EXPECT_LT(relative_error(layer_norm(x, weight, bias), exact), 1e-5);
  const at::Tensor half = layer_norm(x.to(at::kHalf), weight.to(at::kHalf), bias);
  EXPECT_EQ(half.scalar_type(), at::kHalf);
}

TEST(Functional, HeadsSplitAndMerge) {
  const at::Tensor x = at::randn({2, 5, 12});
  const at::Tensor heads = split_heads(x, 3);
  EXPECT_EQ(heads.sizes(), at::IntArrayRef({2, 3, 5, 4}));
  EXPECT_EQ(heads[1][2][4][3].item<float>(), x[1][4][11].item<float>());
  EXPECT_TRUE(merge_heads(heads).equal(x));
}

TEST(Functional, AttentionIsExact) {
  for (const bool causal : {false, true}) {
    const at::Tensor q = at::randn({2, 3, 7, 4});
    const at::Tensor k = at::randn({2, 3, 7, 4});
    const at::Tensor v = at::randn({2, 3, 7, 4});
    const at::Tensor exact = exact_attention(q, k, v, causal);
    EXPECT_LT(relative_error(attention(q, k, v, causal), exact), 1e-6);
    const at::Tensor mask = causal ? causal_mask(7) : at::Tensor();
    EXPECT_LT(relative_error(attention_with_scores(q, k, v, mask).out, exact), 1e-6);
  }
}

TEST(Functional, ScoresAreThoseBeforeTheSoftmax) {
  const at::Tensor q = at::randn({1, 2, 3, 4});
  const at::Tensor k = at::randn({1, 2, 5, 4});
  const at::Tensor scores = attention_with_scores(q, k, at::randn({1, 2, 5, 4}), {}).scores;
  EXPECT_LT(relative_error(scores, at::matmul(q, k.transpose(-1, -2)) / 2), 1e-6);
}

TEST(Functional, SinusoidsAreSinesThenCosines) {
  const at::Tensor table = sinusoids(5, 6);
  for (int t = 0; t < 5; ++t) {
    for (int i = 0; i < 3; ++i) {
      const double angle = t * std::exp(-std::log(10000.0) / 2 * i);
      EXPECT_NEAR(table[t][i].item<double>(), std::sin(angle), 1e-6);
      EXPECT_NEAR(table[t][i + 3].item<double>(), std::cos(angle), 1e-6);
    }
  }
  EXPECT_THROW(sinusoids(5, 7), c10::ValueError);
}

TEST(Functional, CausalMaskHidesTheFuture) {
  const at::Tensor mask = causal_mask(4);
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      EXPECT_EQ(mask[i][j].item<float>(), j > i ? -std::numeric_limits<float>::infinity() : 0.0F);
    }
  }
}

}  // namespace
}  // namespace torchwhisper::nn::functional
