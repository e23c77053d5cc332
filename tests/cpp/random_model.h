#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/model/dimensions.h"
#include "csrc/model/whisper.h"
#include "csrc/nn/weights.h"

/// Random weights for tests that need a model and no checkpoint.
namespace torchwhisper::testing {

inline void add_linear(nn::NamedTensors& tensors, const std::string& name, std::int64_t n_in,
                       std::int64_t n_out, bool with_bias = true) {
  tensors[name + ".weight"] = at::randn({n_out, n_in}) * 0.1;
  if (with_bias) {
    tensors[name + ".bias"] = at::randn({n_out}) * 0.1;
  }
}

inline void add_layer_norm(nn::NamedTensors& tensors, const std::string& name, std::int64_t n_state) {
  tensors[name + ".weight"] = 1.0 + at::randn({n_state}) * 0.1;
  tensors[name + ".bias"] = at::randn({n_state}) * 0.1;
}

inline void add_attention(nn::NamedTensors& tensors, const std::string& name, std::int64_t n_state) {
  add_linear(tensors, name + ".query", n_state, n_state);
  add_linear(tensors, name + ".key", n_state, n_state, /*with_bias=*/false);
  add_linear(tensors, name + ".value", n_state, n_state);
  add_linear(tensors, name + ".out", n_state, n_state);
}

inline void add_block(nn::NamedTensors& tensors, const std::string& name, std::int64_t n_state, bool cross) {
  add_attention(tensors, name + ".attn", n_state);
  add_layer_norm(tensors, name + ".attn_ln", n_state);
  if (cross) {
    add_attention(tensors, name + ".cross_attn", n_state);
    add_layer_norm(tensors, name + ".cross_attn_ln", n_state);
  }
  add_linear(tensors, name + ".mlp.0", n_state, 4 * n_state);
  add_linear(tensors, name + ".mlp.2", 4 * n_state, n_state);
  add_layer_norm(tensors, name + ".mlp_ln", n_state);
}

/// 2 + 2 layers, 16 wide, 20 audio frames, 60 tokens.
inline model::ModelDimensions small_dimensions() {
  return {.n_mels = 6,
          .n_audio_ctx = 20,
          .n_audio_state = 16,
          .n_audio_head = 2,
          .n_audio_layer = 2,
          .n_vocab = 60,
          .n_text_ctx = 24,
          .n_text_state = 16,
          .n_text_head = 4,
          .n_text_layer = 2};
}

inline nn::NamedTensors random_weights(const model::ModelDimensions& dims) {
  nn::NamedTensors tensors;
  const std::int64_t n_state = dims.n_audio_state;
  tensors["encoder.conv1.weight"] = at::randn({n_state, dims.n_mels, 3}) * 0.2;
  tensors["encoder.conv1.bias"] = at::randn({n_state}) * 0.1;
  tensors["encoder.conv2.weight"] = at::randn({n_state, n_state, 3}) * 0.2;
  tensors["encoder.conv2.bias"] = at::randn({n_state}) * 0.1;
  tensors["encoder.positional_embedding"] = at::randn({dims.n_audio_ctx, n_state}) * 0.1;
  add_layer_norm(tensors, "encoder.ln_post", n_state);
  for (std::int64_t i = 0; i < dims.n_audio_layer; ++i) {
    add_block(tensors, "encoder.blocks." + std::to_string(i), n_state, /*cross=*/false);
  }
  tensors["decoder.token_embedding.weight"] = at::randn({dims.n_vocab, n_state}) * 0.5;
  tensors["decoder.positional_embedding"] = at::randn({dims.n_text_ctx, n_state});
  add_layer_norm(tensors, "decoder.ln", n_state);
  for (std::int64_t i = 0; i < dims.n_text_layer; ++i) {
    add_block(tensors, "decoder.blocks." + std::to_string(i), n_state, /*cross=*/true);
  }
  return tensors;
}

inline model::Whisper random_model(std::uint64_t seed = 0) {
  at::manual_seed(seed);
  return model::Whisper(small_dimensions(), random_weights(small_dimensions()));
}

/// The largest difference, relative to the largest magnitude expected.
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor want = expected.to(at::kDouble);
  return ((actual.to(at::kDouble) - want).abs().max() / want.abs().max()).item<double>();
}

// The largest difference of a product x w^T + bias, each beside the sizes of what was summed for it: a sum of
// few numbers may cancel to almost nothing.
inline double error_of_sums(const at::Tensor& actual, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias = {}) {
  const auto sums = [&](const at::Tensor& a, const at::Tensor& w, const at::Tensor& b) {
    const at::Tensor product = at::matmul(a.to(at::kDouble), w.to(at::kDouble).t());
    return b.defined() ? product + b : product;
  };
  const at::Tensor size = sums(x.abs(), weight.abs(), bias.defined() ? bias.abs() : bias);
  return ((actual.to(at::kDouble) - sums(x, weight, bias)).abs() / size).max().item<double>();
}

}  // namespace torchwhisper::testing
