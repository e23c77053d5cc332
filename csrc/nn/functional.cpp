#include "csrc/nn/functional.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include <cmath>
#include <limits>

#include "csrc/kernels/table.h"

namespace torchwhisper::nn::functional {
namespace {

at::Tensor cast(const at::Tensor& weight, at::ScalarType dtype) {
  return weight.defined() ? weight.to(dtype) : weight;
}

// What a kernel can read without further ado.
bool is_plain_float(const at::Tensor& x) {
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous();
}

}  // namespace

void layer_norm_rows(const float* x, std::int64_t rows, const at::Tensor& weight, const at::Tensor& bias,
                     float* y) {
  const std::int64_t n = weight.numel();
  const float* gain = weight.const_data_ptr<float>();
  const float* shift = bias.const_data_ptr<float>();
  constexpr std::int64_t kNumbersPerThread = 16'384;
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kNumbersPerThread / n),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t row = begin; row < end; ++row) {
                       kernels::kernels().layer_norm(x + row * n, n, gain, shift,
                                                     static_cast<float>(kLayerNormEps), y + row * n);
                     }
                   });
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::linear(x, cast(weight, x.scalar_type()), cast(bias, x.scalar_type()));
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (is_plain_float(x) && is_plain_float(weight) && is_plain_float(bias)) {
    at::Tensor y = at::empty_like(x);
    layer_norm_rows(x.const_data_ptr<float>(), x.numel() / weight.numel(), weight, bias,
                    y.mutable_data_ptr<float>());
    return y;
  }
  return layer_norm_for_training(x, weight, bias);
}

at::Tensor layer_norm_for_training(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
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
