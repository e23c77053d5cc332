#include "csrc/nn/block.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "csrc/nn/functional.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::add_block;
using torchwhisper::testing::relative_error;

constexpr std::int64_t kState = 12;
constexpr std::int64_t kHeads = 3;

ResidualAttentionBlock make_block(bool cross) {
  NamedTensors tensors;
  add_block(tensors, "block", kState, cross);
  for (auto& [name, tensor] : tensors) {
    tensor.requires_grad_();
  }
  return ResidualAttentionBlock(Weights(tensors)["block"], kState, kHeads, cross);
}

TEST(ResidualAttentionBlock, CachedEqualsWhole) {
  const at::NoGradGuard no_grad;
  ResidualAttentionBlock block = make_block(/*cross=*/true);
  const at::Tensor x = at::randn({2, 6, kState});
  const at::Tensor features = at::randn({2, 9, kState});
  KeyValueCache cache(2, kHeads, 10, kState / kHeads, x);
  const KeyValueCache memory = block->cross_attn->remember(features);
  const at::Tensor first = block->decode_cached(x.slice(1, 0, 5), cache, memory);
  const at::Tensor last = block->decode_cached(x.slice(1, 5, 6), cache, memory);
  const at::Tensor whole = block->decode(x, features);
  EXPECT_LT(relative_error(at::cat({first, last}, 1), whole), 2e-6);
  const auto scored = block->decode_with_scores(x, memory, functional::causal_mask(6), {0});
  EXPECT_LT(relative_error(scored.out, whole), 2e-6);
}

TEST(ResidualAttentionBlock, GradientsReachEveryParameter) {
  for (const bool cross : {false, true}) {
    ResidualAttentionBlock block = make_block(cross);
    const at::Tensor x = at::randn({2, 6, kState});
    const at::Tensor y = cross ? block->decode(x, at::randn({2, 9, kState})) : block->encode(x);
    y.square().sum().backward();
    for (const auto& item : block->named_parameters()) {
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_GT(item.value().grad().abs().max().item<float>(), 0.0F) << item.key();
    }
  }
}

TEST(ResidualAttentionBlock, EncoderBlocksHaveNoCrossAttention) {
  EXPECT_FALSE(make_block(/*cross=*/false)->named_parameters().contains("cross_attn.query.weight"));
  EXPECT_TRUE(make_block(/*cross=*/true)->named_parameters().contains("cross_attn.query.weight"));
}

}  // namespace
}  // namespace torchwhisper::nn
