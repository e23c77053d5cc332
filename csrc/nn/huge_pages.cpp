#include "csrc/nn/huge_pages.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <new>
#include <numeric>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace torchwhisper::nn {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kChunk = std::int64_t{32} << 20;
constexpr std::int64_t kCacheLine = 64;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void* allocate_huge(std::int64_t n_bytes) {
  const auto size = static_cast<std::size_t>(round_up(n_bytes, kHugePage));
  void* memory = std::aligned_alloc(static_cast<std::size_t>(kHugePage), size);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
#ifdef __linux__
  // Before the first write, so that the first touch of a page makes it a huge one. A refusal costs speed
  // only.
  static_cast<void>(madvise(memory, size, MADV_HUGEPAGE));
#endif
  return memory;
}

}  // namespace

at::Tensor empty_on_huge_pages(at::IntArrayRef sizes, at::ScalarType dtype) {
  const std::int64_t n_bytes = std::accumulate(
      sizes.begin(), sizes.end(), static_cast<std::int64_t>(c10::elementSize(dtype)), std::multiplies<>());
  if (n_bytes < kHugePage) {
    return at::empty(sizes, dtype);
  }
  return at::from_blob(
      allocate_huge(n_bytes), sizes, [](void* memory) { std::free(memory); }, dtype);
}

at::Tensor WeightArena::allocate(std::int64_t n_bytes) {
  if (!chunk_.defined() || used_ + n_bytes > chunk_.numel()) {
    chunk_ = empty_on_huge_pages({std::max(n_bytes, kChunk)}, at::kByte);
    used_ = 0;
  }
  const at::Tensor place = chunk_.narrow(0, used_, n_bytes);
  used_ += round_up(n_bytes, kCacheLine);
  return place;
}

}  // namespace torchwhisper::nn
