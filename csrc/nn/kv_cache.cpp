#include "csrc/nn/kv_cache.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "csrc/kernels/attention.h"
#include "csrc/nn/huge_pages.h"

namespace torchwhisper::nn {
namespace {

using kernels::kPanelWidth;

// Below this many multiplications a second thread costs more than it gives.
constexpr std::int64_t kWorthAThread = 100'000;

at::Tensor allocate(at::IntArrayRef sizes, const at::Tensor& like, at::ScalarType dtype) {
  return like.is_cpu() ? empty_on_huge_pages(sizes, dtype) : at::empty(sizes, like.options());
}

const void* place_of(const at::Tensor& cache, std::int64_t row, std::int64_t head) {
  const std::int64_t offset = row * cache.stride(0) + head * cache.stride(1);
  return static_cast<const std::byte*>(cache.const_data_ptr()) + offset * cache.element_size();
}

}  // namespace

KeyValueCache::KeyValueCache(std::int64_t rows, std::int64_t n_head, std::int64_t n_ctx, std::int64_t dim,
                             const at::Tensor& like, bool shortened)
    : n_head_(n_head),
      dim_(dim),
      in_panels_(like.is_cpu() && like.scalar_type() == at::kFloat && dim <= kPanelWidth),
      shortened_(in_panels_ && shortened),
      keys_(allocate(
          in_panels_ ? std::vector<std::int64_t>{rows, n_head, kernels::panel_count(n_ctx), dim, kPanelWidth}
                     : std::vector<std::int64_t>{rows, n_head, n_ctx, dim},
          like, shortened_ ? at::kBFloat16 : like.scalar_type())),
      values_(allocate({rows, n_head, n_ctx, in_panels_ ? kPanelWidth : dim}, like, keys_.scalar_type())),
      alike_(static_cast<std::size_t>(rows * rows), 0) {}

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

template <typename Element>
Element* KeyValueCache::key_at(std::int64_t row, std::int64_t head, std::int64_t place) const {
  return keys_.mutable_data_ptr<Element>() + row * keys_.stride(0) + head * keys_.stride(1) +
         place / kPanelWidth * keys_.stride(2) + place % kPanelWidth;
}

template <typename Element>
Element* KeyValueCache::value_at(std::int64_t row, std::int64_t head, std::int64_t place) const {
  return values_.mutable_data_ptr<Element>() + row * values_.stride(0) + head * values_.stride(1) +
         place * kPanelWidth;
}

// key, value: [dim].
template <typename Element, typename Given>
void KeyValueCache::write(std::int64_t row, std::int64_t head, std::int64_t place, const Given* key,
                          const Given* value) {
  auto* column = key_at<Element>(row, head, place);
  for (std::int64_t d = 0; d < dim_; ++d) {
    column[d * kPanelWidth] = static_cast<Element>(key[d]);
  }
  auto* line = value_at<Element>(row, head, place);
  for (std::int64_t d = 0; d < kPanelWidth; ++d) {
    line[d] = d < dim_ ? static_cast<Element>(value[d]) : Element(0.0F);
  }
}

void KeyValueCache::write_as_kept(std::int64_t row, std::int64_t head, std::int64_t place, const float* key,
                                  const float* value) {
  if (shortened_) {
    write<at::BFloat16>(row, head, place, key, value);
  } else {
    write<float>(row, head, place, key, value);
  }
}

void KeyValueCache::append_rows(const float* key, const float* value, std::int64_t stride) {
  TORCH_INTERNAL_ASSERT(in_panels_ && length_ < values_.size(2));
  for (std::int64_t row = 0; row < rows(); ++row) {
    for (std::int64_t head = 0; head < n_head_; ++head) {
      const std::int64_t offset = row * stride + head * dim_;
      write_as_kept(row, head, length_, key + offset, value + offset);
    }
  }
  ++length_;
}

void KeyValueCache::append_to_panels(const at::Tensor& key, const at::Tensor& value) {
  TORCH_INTERNAL_ASSERT(key.stride(3) == 1 && value.stride(3) == 1);
  const auto keys = key.accessor<float, 4>();
  const auto values = value.accessor<float, 4>();
  const std::int64_t n_new = key.size(2);
  const std::int64_t grain =
      std::max<std::int64_t>(1, kWorthAThread / std::max<std::int64_t>(1, n_new * dim_));
  at::parallel_for(0, rows() * n_head_, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / n_head_;
      const std::int64_t head = i % n_head_;
      for (std::int64_t t = 0; t < n_new; ++t) {
        write_as_kept(row, head, length_ + t, keys[row][head][t].data(), values[row][head][t].data());
      }
    }
  });
}

// Calls visit(head attention without its output, row, head, first query) for groups of queries.
template <typename Visit>
void KeyValueCache::visit_heads(const float* q, std::int64_t time, std::int64_t stride, Visit visit) const {
  const std::int64_t groups = (time + kernels::kMostQueries - 1) / kernels::kMostQueries;
  const std::int64_t work = 2 * std::min(time, kernels::kMostQueries) * length_ * dim_;
  at::parallel_for(
      0, rows() * n_head_ * groups, std::max<std::int64_t>(1, kWorthAThread / work),
      [&](std::int64_t begin, std::int64_t end) {
        static thread_local std::vector<float> scores;  // kept for the next token
        scores.resize(std::max(scores.size(), static_cast<std::size_t>(std::min(time, kernels::kMostQueries) *
                                                                       kernels::score_stride(length_))));
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t head = i / groups % n_head_;
          const std::int64_t row = i / groups / n_head_;
          const std::int64_t first = i % groups * kernels::kMostQueries;
          const kernels::HeadAttention attention{q + (row * time + first) * stride + head * dim_,
                                                 stride,
                                                 std::min(kernels::kMostQueries, time - first),
                                                 dim_,
                                                 length_,
                                                 place_of(keys_, row, head),
                                                 place_of(values_, row, head),
                                                 shortened_,
                                                 1.0F / std::sqrt(static_cast<float>(dim_)),
                                                 nullptr,
                                                 0};
          visit(attention, scores.data(), row, head, first);
        }
      });
}

void KeyValueCache::attend_rows(const float* q, std::int64_t time, std::int64_t stride, float* y) const {
  TORCH_INTERNAL_ASSERT(in_panels_);
  const std::int64_t n_state = n_head_ * dim_;
  visit_heads(q, time, stride,
              [&](kernels::HeadAttention head, float* scores, std::int64_t row, std::int64_t index,
                  std::int64_t first) {
                head.y = y + (row * time + first) * n_state + index * dim_;
                head.y_stride = n_state;
                kernels::attend(head, scores);
              });
}

at::Tensor KeyValueCache::attend(const at::Tensor& q) const {
  if (!in_panels_) {
    return functional::merge_heads(functional::attention(functional::split_heads(q, n_head_), used(keys_),
                                                         used(values_), /*causal=*/false));
  }
  const at::Tensor queries = q.contiguous();
  at::Tensor out = at::empty_like(queries);
  attend_rows(queries.const_data_ptr<float>(), q.size(1), q.size(2), out.mutable_data_ptr<float>());
  return out;
}

functional::AttentionWithScores KeyValueCache::attend_with_scores(
    const at::Tensor& q, const std::vector<std::int64_t>& heads) const {
  if (!in_panels_) {
    const auto all = functional::attention_with_scores(functional::split_heads(q, n_head_), used(keys_),
                                                       used(values_), /*mask=*/{});
    return {all.out, all.scores.index_select(1, at::tensor(heads, at::kLong).to(q.device()))};
  }
  const at::Tensor queries = q.contiguous();
  const std::int64_t time = q.size(1);
  const auto n_wanted = static_cast<std::int64_t>(heads.size());
  at::Tensor scores = at::empty({rows(), n_wanted, time, length_}, q.options());
  at::Tensor out = at::empty({rows(), n_head_, time, dim_}, q.options());
  visit_heads(queries.const_data_ptr<float>(), time, q.size(2),
              [&](kernels::HeadAttention head, float* buffer, std::int64_t row, std::int64_t index,
                  std::int64_t first) {
                const auto wanted = std::find(heads.begin(), heads.end(), index);
                if (wanted != heads.end()) {
                  const std::int64_t line = (row * n_wanted + (wanted - heads.begin())) * time + first;
                  kernels::score(head, scores.mutable_data_ptr<float>() + line * length_);
                }
                head.y = out.mutable_data_ptr<float>() + ((row * n_head_ + index) * time + first) * dim_;
                head.y_stride = dim_;
                kernels::attend(head, buffer);
              });
  return {out, scores};
}

// The part of a cache that holds something.
at::Tensor KeyValueCache::used(const at::Tensor& cache) const {
  return cache.narrow(2, 0, cache.dim() == 5 ? kernels::panel_count(length_) : length_);
}

template <typename Element>
KeyValueCache::Tail KeyValueCache::take_from_panels(std::int64_t row, std::int64_t begin) const {
  const std::int64_t n = length_ - begin;
  const Tail tail{at::empty({n_head_, n, dim_}, keys_.options()),
                  at::empty({n_head_, n, dim_}, keys_.options())};
  auto* key = tail.key.mutable_data_ptr<Element>();
  auto* value = tail.value.mutable_data_ptr<Element>();
  for (std::int64_t head = 0; head < n_head_; ++head) {
    for (std::int64_t place = begin; place < length_; ++place, key += dim_, value += dim_) {
      const auto* column = key_at<Element>(row, head, place);
      for (std::int64_t d = 0; d < dim_; ++d) {
        key[d] = column[d * kPanelWidth];
      }
      const auto* line = value_at<Element>(row, head, place);
      std::copy(line, line + dim_, value);
    }
  }
  return tail;
}

KeyValueCache::Tail KeyValueCache::take(std::int64_t row, std::int64_t begin) const {
  if (in_panels_) {
    return shortened_ ? take_from_panels<at::BFloat16>(row, begin) : take_from_panels<float>(row, begin);
  }
  const std::int64_t n = length_ - begin;
  return {keys_.select(0, row).narrow(1, begin, n).clone(),
          values_.select(0, row).narrow(1, begin, n).clone()};
}

template <typename Element>
void KeyValueCache::put_into_panels(std::int64_t row, std::int64_t begin, const Tail& tail) {
  const auto* key = tail.key.const_data_ptr<Element>();
  const auto* value = tail.value.const_data_ptr<Element>();
  for (std::int64_t head = 0; head < n_head_; ++head) {
    for (std::int64_t place = begin; place < length_; ++place, key += dim_, value += dim_) {
      write<Element>(row, head, place, key, value);
    }
  }
}

void KeyValueCache::put(std::int64_t row, std::int64_t begin, const Tail& tail) {
  if (!in_panels_) {
    keys_.select(0, row).narrow(1, begin, length_ - begin).copy_(tail.key);
    values_.select(0, row).narrow(1, begin, length_ - begin).copy_(tail.value);
    return;
  }
  if (shortened_) {
    put_into_panels<at::BFloat16>(row, begin, tail);
  } else {
    put_into_panels<float>(row, begin, tail);
  }
}

void KeyValueCache::reorder(const std::vector<std::int64_t>& sources) {
  if (sources.empty()) {
    return;
  }
  const auto n_row = static_cast<std::size_t>(rows());
  const auto source = [&](std::size_t row) { return static_cast<std::size_t>(sources[row]); };
  // All tails are read before any is written.
  std::vector<Tail> tails(n_row);
  for (std::size_t row = 0; row < n_row; ++row) {
    if (source(row) != row) {
      tails[row] = take(sources[row], alike_[row * n_row + source(row)]);
    }
  }
  std::vector<std::int64_t> alike(alike_.size());
  for (std::size_t row = 0; row < n_row; ++row) {
    if (source(row) != row) {
      put(static_cast<std::int64_t>(row), alike_[row * n_row + source(row)], tails[row]);
    }
    for (std::size_t other = 0; other < n_row; ++other) {
      const bool same = source(row) == source(other);
      alike[row * n_row + other] = same ? length_ : alike_[source(row) * n_row + source(other)];
    }
  }
  alike_ = std::move(alike);
}

KeyValueCache KeyValueCache::repeat_rows(std::int64_t times) const {
  const at::Tensor like = shortened_ ? at::empty({0}, keys_.options().dtype(at::kFloat)) : keys_;
  KeyValueCache repeated(rows() * times, n_head_, values_.size(2), dim_, like, shortened_);
  repeated.length_ = length_;
  repeated.used(repeated.keys_).copy_(used(keys_).repeat_interleave(times, 0));
  repeated.used(repeated.values_).copy_(used(values_).repeat_interleave(times, 0));
  for (std::int64_t row = 0; row < repeated.rows(); ++row) {
    const std::int64_t first = row / times * times;
    for (std::int64_t other = first; other < first + times; ++other) {
      repeated.alike_[static_cast<std::size_t>(row * repeated.rows() + other)] = length_;
    }
  }
  return repeated;
}

}  // namespace torchwhisper::nn
