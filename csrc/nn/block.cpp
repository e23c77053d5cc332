#include "csrc/nn/block.h"

#include <ATen/ATen.h>

namespace torchwhisper::nn {
namespace {

template <typename Layer>
Affine affine(const Layer& layer) {
  return {layer->weight, layer->bias};
}

AttentionWeights attention_weights(const LayerNorm& norm, const MultiHeadAttention& attention) {
  return {affine(norm), affine(attention->query), affine(attention->key), affine(attention->value),
          affine(attention->out)};
}

}  // namespace

MlpImpl::MlpImpl(const Weights& given, std::int64_t n_state)
    : expand(register_module("0", Linear(given["0"], n_state, 4 * n_state))),
      contract(register_module("2", Linear(given["2"], 4 * n_state, n_state))) {}

at::Tensor MlpImpl::forward(const at::Tensor& x) { return contract(expand->forward_gelu(x)); }

at::Tensor MlpImpl::forward_add(const at::Tensor& x, const at::Tensor& residual) {
  return contract->forward_add(expand->forward_gelu(x), residual);
}

void MlpImpl::prepare(Precision precision, Rows rows, WeightArena& arena) {
  expand->prepare(precision, rows, arena);
  contract->prepare(precision, rows, arena);
}

ResidualAttentionBlockImpl::ResidualAttentionBlockImpl(const Weights& given, std::int64_t n_state,
                                                       std::int64_t n_head, bool cross_attention)
    : attn(register_module("attn", MultiHeadAttention(given["attn"], n_state, n_head))),
      attn_ln(register_module("attn_ln", LayerNorm(given["attn_ln"], n_state))) {
  if (cross_attention) {
    cross_attn = register_module("cross_attn", MultiHeadAttention(given["cross_attn"], n_state, n_head));
    cross_attn_ln = register_module("cross_attn_ln", LayerNorm(given["cross_attn_ln"], n_state));
  }
  mlp = register_module("mlp", Mlp(given["mlp"], n_state));
  mlp_ln = register_module("mlp_ln", LayerNorm(given["mlp_ln"], n_state));
}

at::Tensor ResidualAttentionBlockImpl::encode(const at::Tensor& input) {
  const at::Tensor x = attn->self_attention(attn_ln(input), /*causal=*/false, input);
  return mlp->forward_add(mlp_ln(x), x);
}

at::Tensor ResidualAttentionBlockImpl::decode(const at::Tensor& input, const at::Tensor& features) {
  at::Tensor x = attn->self_attention(attn_ln(input), /*causal=*/true, input);
  x = x + cross_attn->cross_attention(cross_attn_ln(x), features);
  return x + mlp(mlp_ln(x));
}

at::Tensor ResidualAttentionBlockImpl::decode_cached(const at::Tensor& input, KeyValueCache& cache,
                                                     const KeyValueCache& memory) {
  at::Tensor x = attn->cached_self_attention(attn_ln(input), cache, input);
  x = cross_attn->cached_cross_attention(cross_attn_ln(x), memory, x);
  return mlp->forward_add(mlp_ln(x), x);
}

bool ResidualAttentionBlockImpl::takes_rows() const {
  return attn->takes_rows() && cross_attn->takes_rows() && mlp->expand->packed()->is_by_kernel();
}

void ResidualAttentionBlockImpl::step(float* x, KeyValueCache& cache, const KeyValueCache& memory,
                                      StepBuffers& buffers) const {
  const std::int64_t rows = cache.rows();
  attn_ln->forward_rows(x, rows, buffers.normed());
  attn->step_self_attention(buffers.normed(), cache, buffers, x);
  cross_attn_ln->forward_rows(x, rows, buffers.normed());
  cross_attn->step_cross_attention(buffers.normed(), rows, memory, buffers, x);
  mlp_ln->forward_rows(x, rows, buffers.normed());
  mlp->expand->packed()->multiply_into(buffers.normed(), rows, buffers.wide(), {.gelu = true});
  mlp->contract->packed()->multiply_into(buffers.wide(), rows, x, {.residual = x});
}

MultiHeadAttentionImpl::Scored ResidualAttentionBlockImpl::decode_with_scores(
    const at::Tensor& input, const KeyValueCache& memory, const at::Tensor& mask,
    const std::vector<std::int64_t>& heads) {
  at::Tensor x = input + attn->masked_self_attention(attn_ln(input), mask);
  const auto cross = cross_attn->cross_attention_with_scores(cross_attn_ln(x), memory, heads);
  x = x + cross.out;
  return {x + mlp(mlp_ln(x)), cross.scores};
}

at::Tensor ResidualAttentionBlockImpl::forward_training(const at::Tensor& x, const at::Tensor& features,
                                                        const BlockTraining& training) {
  return train_block(x, features, weights(), attn->n_head, training);
}

BlockWeights ResidualAttentionBlockImpl::weights() const {
  BlockWeights all{
      attention_weights(attn_ln, attn), {}, {affine(mlp_ln), affine(mlp->expand), affine(mlp->contract)}};
  if (cross_attn) {
    all.cross_attn = attention_weights(cross_attn_ln, cross_attn);
  }
  return all;
}

void ResidualAttentionBlockImpl::prepare(Precision precision, WeightArena& arena) {
  const Rows rows = cross_attn ? Rows::kFew : Rows::kMany;
  attn_ln->prepare();
  attn->prepare(precision, rows, arena, /*attends_to_itself=*/true);
  if (cross_attn) {
    cross_attn_ln->prepare();
    cross_attn->prepare(precision, rows, arena, /*attends_to_itself=*/false);
  }
  mlp_ln->prepare();
  mlp->prepare(precision, rows, arena);
}

}  // namespace torchwhisper::nn
