#include "csrc/nn/attention.h"

#include <ATen/ATen.h>

#include "csrc/nn/functional.h"
#include "csrc/nn/huge_pages.h"

namespace torchwhisper::nn {
namespace {

bool serves(const std::unique_ptr<const PackedLinear>& packed, const at::Tensor& x) {
  return packed && packed->dtype() == x.scalar_type();
}

// The key projection has no bias; a joint product needs zeros in its place.
at::Tensor no_bias(const Linear& key) { return at::zeros({key->weight.size(0)}, key->weight.options()); }

// Every token reads the memory again, head by head: worth one copy into that order.
at::Tensor head_major(const at::Tensor& heads) {
  if (!heads.is_cpu()) {
    return heads.contiguous();
  }
  return empty_on_huge_pages(heads.sizes(), heads.scalar_type()).copy_(heads);
}

}  // namespace

MultiHeadAttentionImpl::MultiHeadAttentionImpl(const Weights& given, std::int64_t n_state,
                                               std::int64_t n_head_)
    : n_head(n_head_),
      query(register_module("query", Linear(given["query"], n_state, n_state))),
      key(register_module("key", Linear(given["key"], n_state, n_state, /*with_bias=*/false))),
      value(register_module("value", Linear(given["value"], n_state, n_state))),
      out(register_module("out", Linear(given["out"], n_state, n_state))) {}

MultiHeadAttentionImpl::Heads MultiHeadAttentionImpl::project_self(const at::Tensor& x) {
  if (serves(packed_query_key_value_, x)) {
    const auto parts = packed_query_key_value_->forward(x).chunk(3, -1);
    return {functional::split_heads(parts[0], n_head), functional::split_heads(parts[1], n_head),
            functional::split_heads(parts[2], n_head)};
  }
  return {functional::split_heads(query(x), n_head), functional::split_heads(key(x), n_head),
          functional::split_heads(value(x), n_head)};
}

at::Tensor MultiHeadAttentionImpl::self_attention(const at::Tensor& x, bool causal) {
  const Heads heads = project_self(x);
  return out(
      functional::merge_heads(functional::attention(heads.q, heads.k, heads.v, causal && x.size(1) > 1)));
}

at::Tensor MultiHeadAttentionImpl::cached_self_attention(const at::Tensor& x, KeyValueCache& cache) {
  TORCH_INTERNAL_ASSERT(cache.length() == 0 || x.size(1) == 1);
  const Heads heads = project_self(x);
  const KeyValue all = cache.append(heads.k, heads.v);
  return out(functional::merge_heads(functional::attention(heads.q, all.key, all.value, x.size(1) > 1)));
}

KeyValue MultiHeadAttentionImpl::project_memory(const at::Tensor& features) {
  if (serves(packed_key_value_, features)) {
    const auto parts = packed_key_value_->forward(features).chunk(2, -1);
    return {head_major(functional::split_heads(parts[0], n_head)),
            head_major(functional::split_heads(parts[1], n_head))};
  }
  return {functional::split_heads(key(features), n_head), functional::split_heads(value(features), n_head)};
}

at::Tensor MultiHeadAttentionImpl::cross_attention(const at::Tensor& x, const KeyValue& memory) {
  // Nothing is masked here, so all rows of one recording can be the queries of one attention.
  const std::int64_t n_audio = memory.key.size(0);
  const at::Tensor q = query(x).reshape({n_audio, x.size(0) / n_audio * x.size(1), x.size(2)});
  const at::Tensor attended =
      functional::attention(functional::split_heads(q, n_head), memory.key, memory.value, /*causal=*/false);
  return out(functional::merge_heads(attended).reshape(x.sizes()));
}

MultiHeadAttentionImpl::Scored MultiHeadAttentionImpl::self_attention_with_scores(const at::Tensor& x,
                                                                                  const at::Tensor& mask) {
  const Heads heads = project_self(x);
  const auto scored = functional::attention_with_scores(heads.q, heads.k, heads.v, mask);
  return {out(functional::merge_heads(scored.out)), scored.scores};
}

MultiHeadAttentionImpl::Scored MultiHeadAttentionImpl::cross_attention_with_scores(const at::Tensor& x,
                                                                                   const KeyValue& memory) {
  const at::Tensor q = functional::split_heads(query(x), n_head);
  const auto scored = functional::attention_with_scores(q, memory.key, memory.value, /*mask=*/{});
  return {out(functional::merge_heads(scored.out)), scored.scores};
}

void MultiHeadAttentionImpl::prepare(at::ScalarType dtype, WeightArena& arena, bool attends_to_itself) {
  out->prepare(dtype, arena);
  if (attends_to_itself) {
    packed_query_key_value_ =
        std::make_unique<const PackedLinear>(at::cat({query->weight, key->weight, value->weight}),
                                             at::cat({query->bias, no_bias(key), value->bias}), dtype, arena);
    return;
  }
  query->prepare(dtype, arena);
  packed_key_value_ = std::make_unique<const PackedLinear>(
      at::cat({key->weight, value->weight}), at::cat({no_bias(key), value->bias}), dtype, arena);
}

}  // namespace torchwhisper::nn
