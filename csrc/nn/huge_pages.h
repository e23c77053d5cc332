#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"

namespace torchwhisper::nn {

/// An uninitialised CPU tensor, on huge pages from 2 MiB upwards where the system gives them. Decoding reads
/// all weights once per token; with pages of 4 KiB that runs at about half of the memory's speed.
TORCHWHISPER_API at::Tensor empty_on_huge_pages(at::IntArrayRef sizes, at::ScalarType dtype);

/// Places the packed weights of a model next to each other, so that small ones share huge pages. What it has
/// given out stays valid after its end.
class TORCHWHISPER_API WeightArena {
 public:
  /// `n_bytes` of uninitialised CPU memory, aligned to a cache line.
  at::Tensor allocate(std::int64_t n_bytes);

 private:
  at::Tensor chunk_;
  std::int64_t used_ = 0;
};

}  // namespace torchwhisper::nn
