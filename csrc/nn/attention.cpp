#include "csrc/nn/attention.h"

#include <ATen/ATen.h>

#include <cmath>

#include "csrc/kernels/dense_attention.h"
#include "csrc/kernels/words.h"
#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

// The key projection has no bias; a joint product needs zeros in its place.
at::Tensor no_bias(const Linear& key) { return at::zeros({key->weight.size(0)}, key->weight.options()); }

}  // namespace

MultiHeadAttentionImpl::MultiHeadAttentionImpl(const Weights& given, std::int64_t n_state,
                                               std::int64_t n_head_)
    : n_head(n_head_),
      query(register_module("query", Linear(given["query"], n_state, n_state))),
      key(register_module("key", Linear(given["key"], n_state, n_state, /*with_bias=*/false))),
      value(register_module("value", Linear(given["value"], n_state, n_state))),
      out(register_module("out", Linear(given["out"], n_state, n_state))) {}

at::Tensor MultiHeadAttentionImpl::split(const at::Tensor& x) const {
  return functional::split_heads(x, n_head);
}

MultiHeadAttentionImpl::Projected MultiHeadAttentionImpl::project_self(const at::Tensor& x) {
  if (packed_query_key_value_ && packed_query_key_value_->serves(x)) {
    const auto parts = packed_query_key_value_->forward(x).chunk(3, -1);
    return {parts[0], split(parts[1]), split(parts[2])};
  }
  return {query(x), split(key(x)), split(value(x))};
}

std::pair<at::Tensor, at::Tensor> MultiHeadAttentionImpl::project_features(const at::Tensor& features) {
  if (packed_key_value_ && packed_key_value_->serves(features)) {
    const auto parts = packed_key_value_->forward(features).chunk(2, -1);
    return {split(parts[0]), split(parts[1])};
  }
  return {split(key(features)), split(value(features))};
}

// x: [batch, time, n_state] -> [batch, time, n_state] before the last projection.
at::Tensor MultiHeadAttentionImpl::attend_densely(const at::Tensor& x) const {
  const at::Tensor projected = packed_query_key_value_->forward(x);
  const std::int64_t n_state = x.size(2);
  const float* q = projected.const_data_ptr<float>();
  at::Tensor y = at::empty_like(x);
  const std::int64_t dim = n_state / n_head;
  kernels::attend_densely({q, q + n_state, q + 2 * n_state, 3 * n_state, x.size(0), x.size(1), n_head, dim,
                           1.0F / std::sqrt(static_cast<float>(dim)), y.mutable_data_ptr<float>()},
                          in_bfloat16_);
  return y;
}

at::Tensor MultiHeadAttentionImpl::self_attention(const at::Tensor& x, bool causal,
                                                  const at::Tensor& residual) {
  const bool by_kernel = packed_query_key_value_ && packed_query_key_value_->serves(x) && x.is_cpu() &&
                         x.scalar_type() == at::kFloat && x.size(2) / n_head <= kernels::kPanelWidth;
  if (by_kernel && !causal) {
    return out->forward_add(attend_densely(x.contiguous()), residual);
  }
  const Projected self = project_self(x);
  return out->forward_add(
      functional::merge_heads(functional::attention(split(self.q), self.k, self.v, causal && x.size(1) > 1)),
      residual);
}

at::Tensor MultiHeadAttentionImpl::cached_self_attention(const at::Tensor& x, KeyValueCache& cache,
                                                         const at::Tensor& residual) {
  TORCH_INTERNAL_ASSERT(cache.length() == 0 || x.size(1) == 1);
  const Projected self = project_self(x);
  cache.append(self.k, self.v);
  if (x.size(1) == 1) {
    return out->forward_add(cache.attend(self.q), residual);
  }
  return out->forward_add(
      functional::merge_heads(functional::attention(split(self.q), self.k, self.v, /*causal=*/true)),
      residual);
}

at::Tensor MultiHeadAttentionImpl::cross_attention(const at::Tensor& x, const at::Tensor& features) {
  // Nothing is masked here, so all rows of one recording can be the queries of one attention.
  const auto [k, v] = project_features(features);
  const at::Tensor q = query(x).reshape({features.size(0), -1, x.size(2)});
  return out(
      functional::merge_heads(functional::attention(split(q), k, v, /*causal=*/false)).reshape(x.sizes()));
}

KeyValueCache MultiHeadAttentionImpl::remember(const at::Tensor& features) {
  const auto [k, v] = project_features(features);
  KeyValueCache memory(k.size(0), n_head, k.size(2), k.size(3), features, shortens_memory_);
  memory.append(k, v);
  return memory;
}

at::Tensor MultiHeadAttentionImpl::cached_cross_attention(const at::Tensor& x, const KeyValueCache& memory,
                                                          const at::Tensor& residual) {
  const at::Tensor q = query(x).reshape({memory.rows(), -1, x.size(2)});
  return out->forward_add(memory.attend(q).reshape(x.sizes()), residual);
}

bool MultiHeadAttentionImpl::takes_rows() const {
  const PackedLinear* first = packed_query_key_value_ ? packed_query_key_value_.get() : query->packed();
  return first != nullptr && first->is_by_kernel() && out->packed()->is_by_kernel();
}

void MultiHeadAttentionImpl::step_self_attention(const float* x, KeyValueCache& cache, StepBuffers& buffers,
                                                 float* y) const {
  const std::int64_t n_state = query->weight.size(0);
  const float* q = buffers.wide();  // [rows][3 * n_state]
  packed_query_key_value_->multiply_into(x, cache.rows(), buffers.wide());
  cache.append_rows(q + n_state, q + 2 * n_state, 3 * n_state);
  cache.attend_rows(q, /*time=*/1, 3 * n_state, buffers.attended());
  out->packed()->multiply_into(buffers.attended(), cache.rows(), y, {.residual = y});
}

void MultiHeadAttentionImpl::step_cross_attention(const float* x, std::int64_t rows,
                                                  const KeyValueCache& memory, StepBuffers& buffers,
                                                  float* y) const {
  query->packed()->multiply_into(x, rows, buffers.wide());
  // The rows of one recording are the queries of one attention.
  memory.attend_rows(buffers.wide(), rows / memory.rows(), query->weight.size(0), buffers.attended());
  out->packed()->multiply_into(buffers.attended(), rows, y, {.residual = y});
}

at::Tensor MultiHeadAttentionImpl::masked_self_attention(const at::Tensor& x, const at::Tensor& mask) {
  const Projected self = project_self(x);
  return out(
      functional::merge_heads(functional::attention_with_scores(split(self.q), self.k, self.v, mask).out));
}

MultiHeadAttentionImpl::Scored MultiHeadAttentionImpl::cross_attention_with_scores(
    const at::Tensor& x, const KeyValueCache& memory, const std::vector<std::int64_t>& heads) {
  const auto scored = memory.attend_with_scores(query(x), heads);
  return {out(functional::merge_heads(scored.out)), scored.scores};
}

void MultiHeadAttentionImpl::prepare(Precision precision, Rows rows, WeightArena& arena,
                                     bool attends_to_itself) {
  out->prepare(precision, rows, arena);
  if (attends_to_itself) {
    in_bfloat16_ =
        precision.products != ComputeType::kFloat32 && kernels::multiplies_fast(kernels::WordType::kBfloat16);
    packed_query_key_value_ = std::make_unique<const PackedLinear>(
        at::cat({query->weight, key->weight, value->weight}),
        at::cat({query->bias, no_bias(key), value->bias}), precision, rows, arena);
    return;
  }
  shortens_memory_ = precision.products != ComputeType::kFloat32;
  query->prepare(precision, rows, arena);
  packed_key_value_ = std::make_unique<const PackedLinear>(at::cat({key->weight, value->weight}),
                                                           at::cat({no_bias(key), value->bias}), precision,
                                                           Rows::kMany, arena);
}

}  // namespace torchwhisper::nn
