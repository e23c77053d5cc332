#include "csrc/nn/functional.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

namespace torchwhisper::nn::functional {
namespace {

constexpr double kLayerNormEps = 1e-5;

at::Tensor cast(const at::Tensor& weight, at::ScalarType dtype) {
  return weight.defined() ? weight.to(dtype) : weight;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::linear(x, cast(weight, x.scalar_type()), cast(bias, x.scalar_type()));
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::layer_norm(x.to(at::kFloat), weight.sizes(), weight.to(at::kFloat), bias.to(at::kFloat),
                        kLayerNormEps)
      .to(x.scalar_type());
}

at::Tensor conv1d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  std::int64_t stride) {
  return at::conv1d(x, cast(weight, x.scalar_type()), cast(bias, x.scalar_type()), stride, /*padding=*/1);
}

at::Tensor split_heads(const at::Tensor& x, std::int64_t n_head) {
  return x.unflatten(-1, {n_head, x.size(2) / n_head}).transpose(1, 2);
}

at::Tensor merge_heads(const at::Tensor& x) { return x.transpose(1, 2).flatten(2); }

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
  return at::scaled_dot_product_attention(q, k, v, /*attn_mask=*/{}, /*dropout_p=*/0.0, causal);
}

AttentionWithScores attention_with_scores(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const at::Tensor& mask) {
  const double scale = std::pow(static_cast<double>(q.size(-1)), -0.25);
  at::Tensor scores = at::matmul(q * scale, (k * scale).transpose(-1, -2));
  if (mask.defined()) {
    scores = scores + mask;
  }
  scores = scores.to(at::kFloat);
  const at::Tensor weights = at::softmax(scores, -1).to(q.scalar_type());
  return {at::matmul(weights, v), scores.detach()};
}

at::Tensor sinusoids(std::int64_t length, std::int64_t channels, double max_timescale) {
  TORCH_CHECK_VALUE(channels % 2 == 0, "sinusoids needs an even number of channels, got ", channels);
  const std::int64_t half = channels / 2;
  const double increment = std::log(max_timescale) / static_cast<double>(half - 1);
  const at::Tensor inverse_timescales = at::exp(-increment * at::arange(half, at::kFloat));
  const at::Tensor time = at::arange(length, at::kFloat).unsqueeze(1) * inverse_timescales.unsqueeze(0);
  return at::cat({at::sin(time), at::cos(time)}, 1);
}

at::Tensor causal_mask(std::int64_t n_ctx) {
  return at::full({n_ctx, n_ctx}, -std::numeric_limits<float>::infinity(), at::kFloat).triu_(1);
}

}  // namespace torchwhisper::nn::functional
