#include "csrc/nn/kv_cache.h"

#include <ATen/ATen.h>

namespace torchwhisper::nn {

KeyValueCache::KeyValueCache(std::int64_t rows, std::int64_t n_head, std::int64_t n_ctx, std::int64_t dim,
                             const at::Tensor& like)
    : keys_(at::empty({rows, n_head, n_ctx, dim}, like.options())),
      values_(at::empty({rows, n_head, n_ctx, dim}, like.options())) {}

KeyValue KeyValueCache::append(const at::Tensor& key, const at::Tensor& value) {
  const std::int64_t n_new = key.size(2);
  TORCH_INTERNAL_ASSERT(length_ + n_new <= keys_.size(2));
  keys_.narrow(2, length_, n_new).copy_(key);
  values_.narrow(2, length_, n_new).copy_(value);
  length_ += n_new;
  return {keys_.narrow(2, 0, length_), values_.narrow(2, 0, length_)};
}

void KeyValueCache::reorder(const std::vector<std::int64_t>& sources) {
  // Only rows that change are touched, and all of them are read before any is written.
  std::vector<std::int64_t> changed;
  for (std::size_t row = 0; row < sources.size(); ++row) {
    if (sources[row] != static_cast<std::int64_t>(row)) {
      changed.push_back(static_cast<std::int64_t>(row));
    }
  }
  for (const at::Tensor& cache : {keys_, values_}) {
    std::vector<at::Tensor> taken;
    taken.reserve(changed.size());
    for (const std::int64_t row : changed) {
      taken.push_back(cache.select(0, sources[row]).narrow(1, 0, length_).clone());
    }
    for (std::size_t i = 0; i < changed.size(); ++i) {
      cache.select(0, changed[i]).narrow(1, 0, length_).copy_(taken[i]);
    }
  }
}

KeyValueCache KeyValueCache::repeat_rows(std::int64_t times) const {
  KeyValueCache repeated(keys_.size(0) * times, keys_.size(1), keys_.size(2), keys_.size(3), keys_);
  repeated.length_ = length_;
  const auto copy = [&](const at::Tensor& from, const at::Tensor& to) {
    to.narrow(2, 0, length_).copy_(from.narrow(2, 0, length_).repeat_interleave(times, 0));
  };
  copy(keys_, repeated.keys_);
  copy(values_, repeated.values_);
  return repeated;
}

}  // namespace torchwhisper::nn
