#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"

/// The stateless math of the model; the only place that holds it. Every function works with and without
/// gradients and follows the types of openai-whisper 20250625: weights are cast to the type of the input.
namespace torchwhisper::nn::functional {

inline constexpr double kLayerNormEps = 1e-5;

/// x: [..., in], weight: [out, in], bias: [out] or undefined -> [..., out].
TORCHWHISPER_API at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// Normalises the last dimension in float32 and returns the type of x, with kLayerNormEps.
TORCHWHISPER_API at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// The same on plain rows in float32: x, y: [rows][n], weight, bias: [n] float32.
TORCHWHISPER_API void layer_norm_rows(const float* x, std::int64_t rows, const at::Tensor& weight,
                                      const at::Tensor& bias, float* y);

/// The same by the kernel that backward passes are made for, whether or not gradients are recorded.
TORCHWHISPER_API at::Tensor layer_norm_for_training(const at::Tensor& x, const at::Tensor& weight,
                                                    const at::Tensor& bias);

/// x: [batch, channels_in, time], weight: [channels_out, channels_in, 3], padding 1.
TORCHWHISPER_API at::Tensor conv1d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                   std::int64_t stride);

/// [batch, time, state] -> [batch, head, time, dim], a view.
TORCHWHISPER_API at::Tensor split_heads(const at::Tensor& x, std::int64_t n_head);

/// [batch, head, time, dim] -> [batch, time, state].
TORCHWHISPER_API at::Tensor merge_heads(const at::Tensor& x);

/// softmax(q k^T / sqrt(dim)) v with q: [batch, head, time, dim], k and v: [batch, head, memory, dim].
/// `causal` lets a query see the memory up to its own index only.
TORCHWHISPER_API at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      bool causal);

struct AttentionWithScores {
  at::Tensor out;     // [batch, head, time, dim]
  at::Tensor scores;  // [batch, head, time, memory] float32, before the softmax, masked, detached
};

/// The same, spelled out as upstream does without SDPA, keeping the scores. `mask` is added to the scores:
/// [time, memory], or undefined.
TORCHWHISPER_API AttentionWithScores attention_with_scores(const at::Tensor& q, const at::Tensor& k,
                                                           const at::Tensor& v, const at::Tensor& mask);

/// The encoder's positional embedding: [length, channels] float32 (upstream: sinusoids).
/// Throws ValueError where channels is odd.
TORCHWHISPER_API at::Tensor sinusoids(std::int64_t length, std::int64_t channels,
                                      double max_timescale = 10000.0);

/// [n_ctx, n_ctx] float32: 0 on and below the diagonal, -inf above.
TORCHWHISPER_API at::Tensor causal_mask(std::int64_t n_ctx);

}  // namespace torchwhisper::nn::functional
