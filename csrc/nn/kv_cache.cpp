#include "csrc/nn/kv_cache.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "csrc/kernels/attention.h"
#include "csrc/nn/huge_pages.h"

namespace torchwhisper::nn {
namespace {

using kernels::kPanelWidth;

// Below this many multiplications a second thread costs more than it gives.
constexpr std::int64_t kWorthAThread = 100'000;

at::Tensor allocate(at::IntArrayRef sizes, const at::Tensor& like) {
  return like.is_cpu() ? empty_on_huge_pages(sizes, like.scalar_type()) : at::empty(sizes, like.options());
}

}  // namespace

KeyValueCache::KeyValueCache(std::int64_t rows, std::int64_t n_head, std::int64_t n_ctx, std::int64_t dim,
                             const at::Tensor& like)
    : n_head_(n_head),
      dim_(dim),
      in_panels_(like.is_cpu() && like.scalar_type() == at::kFloat && dim <= kPanelWidth),
      keys_(in_panels_ ? allocate({rows, n_head, kernels::panel_count(n_ctx), dim, kPanelWidth}, like)
                       : allocate({rows, n_head, n_ctx, dim}, like)),
      values_(allocate({rows, n_head, n_ctx, in_panels_ ? kPanelWidth : dim}, like)) {}

void KeyValueCache::append(const at::Tensor& key, const at::Tensor& value) {
  const std::int64_t n_new = key.size(2);
  TORCH_INTERNAL_ASSERT(length_ + n_new <= values_.size(2));
  if (in_panels_) {
    append_to_panels(key, value);
  } else {
    keys_.narrow(2, length_, n_new).copy_(key);
    values_.narrow(2, length_, n_new).copy_(value);
  }
  length_ += n_new;
}

void KeyValueCache::append_to_panels(const at::Tensor& key, const at::Tensor& value) {
  const auto from_keys = key.accessor<float, 4>();
  const auto from_values = value.accessor<float, 4>();
  auto to_keys = keys_.accessor<float, 5>();
  auto to_values = values_.accessor<float, 4>();
  const std::int64_t n_new = key.size(2);
  const std::int64_t grain = std::max<std::int64_t>(1, kWorthAThread / (n_new * dim_));
  at::parallel_for(0, rows() * n_head_, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / n_head_;
      const std::int64_t head = i % n_head_;
      for (std::int64_t t = 0; t < n_new; ++t) {
        const std::int64_t place = length_ + t;
        const auto from_key = from_keys[row][head][t];
        const auto from_value = from_values[row][head][t];
        float* panel = to_keys[row][head][place / kPanelWidth].data() + place % kPanelWidth;
        float* line = to_values[row][head][place].data();
        for (std::int64_t d = 0; d < dim_; ++d) {
          panel[d * kPanelWidth] = from_key[d];
          line[d] = from_value[d];
        }
        std::fill(line + dim_, line + kPanelWidth, 0.0F);
      }
    }
  });
}

// Calls visit(head attention without its output, row, head, first query) for groups of queries.
template <typename Visit>
void KeyValueCache::visit_heads(const at::Tensor& q, Visit visit) const {
  const std::int64_t time = q.size(1);
  const std::int64_t groups = (time + kernels::kMostQueries - 1) / kernels::kMostQueries;
  const std::int64_t work = 2 * std::min(time, kernels::kMostQueries) * length_ * dim_;
  at::parallel_for(
      0, rows() * n_head_ * groups, std::max<std::int64_t>(1, kWorthAThread / work),
      [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> scores(static_cast<std::size_t>(std::min(time, kernels::kMostQueries) * length_));
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t head = i / groups % n_head_;
          const std::int64_t row = i / groups / n_head_;
          const std::int64_t first = i % groups * kernels::kMostQueries;
          const kernels::HeadAttention attention{
              q.const_data_ptr<float>() + (row * time + first) * q.size(2) + head * dim_,
              q.size(2),
              std::min(kernels::kMostQueries, time - first),
              dim_,
              length_,
              keys_.const_data_ptr<float>() + row * keys_.stride(0) + head * keys_.stride(1),
              values_.const_data_ptr<float>() + row * values_.stride(0) + head * values_.stride(1),
              1.0F / std::sqrt(static_cast<float>(dim_)),
              nullptr,
              0};
          visit(attention, scores.data(), row, head, first);
        }
      });
}

at::Tensor KeyValueCache::attend(const at::Tensor& q) const {
  if (!in_panels_) {
    return functional::merge_heads(functional::attention(functional::split_heads(q, n_head_), used(keys_),
                                                         used(values_), /*causal=*/false));
  }
  const at::Tensor queries = q.contiguous();
  at::Tensor out = at::empty_like(queries);
  visit_heads(queries, [&](kernels::HeadAttention head, float* scores, std::int64_t row, std::int64_t index,
                           std::int64_t first) {
    head.y = out.mutable_data_ptr<float>() + (row * q.size(1) + first) * q.size(2) + index * dim_;
    head.y_stride = q.size(2);
    kernels::attend(head, scores);
  });
  return out;
}

functional::AttentionWithScores KeyValueCache::attend_with_scores(const at::Tensor& q) const {
  if (!in_panels_) {
    return functional::attention_with_scores(functional::split_heads(q, n_head_), used(keys_), used(values_),
                                             /*mask=*/{});
  }
  const at::Tensor queries = q.contiguous();
  const std::int64_t time = q.size(1);
  at::Tensor scores = at::empty({rows(), n_head_, time, length_}, q.options());
  at::Tensor out = at::empty({rows(), n_head_, time, dim_}, q.options());
  visit_heads(queries, [&](kernels::HeadAttention head, float* buffer, std::int64_t row, std::int64_t index,
                           std::int64_t first) {
    const std::int64_t line = (row * n_head_ + index) * time + first;
    kernels::score(head, scores.mutable_data_ptr<float>() + line * length_);
    head.y = out.mutable_data_ptr<float>() + line * dim_;
    head.y_stride = dim_;
    kernels::attend(head, buffer);
  });
  return {out, scores};
}

// The part of a cache that holds something.
at::Tensor KeyValueCache::used(const at::Tensor& cache) const {
  return cache.narrow(2, 0, cache.dim() == 5 ? kernels::panel_count(length_) : length_);
}

void KeyValueCache::reorder(const std::vector<std::int64_t>& sources) {
  // Only rows that change are touched, and all of them are read before any is written.
  std::vector<std::int64_t> changed;
  for (std::size_t row = 0; row < sources.size(); ++row) {
    if (sources[row] != static_cast<std::int64_t>(row)) {
      changed.push_back(static_cast<std::int64_t>(row));
    }
  }
  for (const at::Tensor& cache : {used(keys_), used(values_)}) {
    std::vector<at::Tensor> taken;
    taken.reserve(changed.size());
    for (const std::int64_t row : changed) {
      taken.push_back(cache.select(0, sources[static_cast<std::size_t>(row)]).clone());
    }
    for (std::size_t i = 0; i < changed.size(); ++i) {
      cache.select(0, changed[i]).copy_(taken[i]);
    }
  }
}

KeyValueCache KeyValueCache::repeat_rows(std::int64_t times) const {
  KeyValueCache repeated(rows() * times, n_head_, values_.size(2), dim_, keys_);
  repeated.length_ = length_;
  repeated.used(repeated.keys_).copy_(used(keys_).repeat_interleave(times, 0));
  repeated.used(repeated.values_).copy_(used(values_).repeat_interleave(times, 0));
  return repeated;
}

}  // namespace torchwhisper::nn
