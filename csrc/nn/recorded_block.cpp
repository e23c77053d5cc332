#include "csrc/nn/recorded_block.h"

#include <ATen/ATen.h>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

at::Tensor linear(const at::Tensor& x, const Affine& layer) {
  return functional::linear(x, layer.weight, layer.bias);
}

at::Tensor layer_norm(const at::Tensor& x, const Affine& norm) {
  return functional::layer_norm(x, norm.weight, norm.bias);
}

// features: undefined where x attends to itself.
at::Tensor attention_half(const at::Tensor& x, const at::Tensor& features, const AttentionWeights& weights,
                          std::int64_t n_head, bool causal) {
  const at::Tensor normed = layer_norm(x, weights.norm);
  const at::Tensor& source = features.defined() ? features : normed;
  const auto heads = [&](const at::Tensor& product) {
    return functional::split_heads(product.reshape({source.size(0), -1, product.size(2)}), n_head);
  };
  const at::Tensor attended =
      functional::attention(heads(linear(normed, weights.query)), heads(linear(source, weights.key)),
                            heads(linear(source, weights.value)), causal);
  return x + linear(functional::merge_heads(attended).reshape(x.sizes()), weights.out);
}

}  // namespace

at::Tensor recorded_block(const at::Tensor& x, const at::Tensor& features, const BlockWeights& weights,
                          std::int64_t n_head) {
  const bool causal = features.defined() && x.size(1) > 1;
  at::Tensor half = attention_half(x, /*features=*/{}, weights.attn, n_head, causal);
  if (weights.cross_attn) {
    half = attention_half(half, features, *weights.cross_attn, n_head, /*causal=*/false);
  }
  const at::Tensor expanded = at::gelu(linear(layer_norm(half, weights.mlp.norm), weights.mlp.expand));
  return half + linear(expanded, weights.mlp.contract);
}

}  // namespace torchwhisper::nn
