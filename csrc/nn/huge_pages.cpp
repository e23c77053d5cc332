#include "csrc/nn/huge_pages.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace torchwhisper::nn {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kChunk = std::int64_t{32} << 20;
constexpr std::int64_t kCacheLine = 64;
constexpr std::int64_t kMostKept = std::int64_t{256} << 20;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Block = std::unique_ptr<void, Free>;

Block allocate_block(std::int64_t n_bytes) {
  const auto size = static_cast<std::size_t>(n_bytes);
  Block block(std::aligned_alloc(static_cast<std::size_t>(kHugePage), size));
  if (!block) {
    throw std::bad_alloc();
  }
#ifdef __linux__
  // Before the first write, so that the first touch of a page makes it a huge one. A refusal costs speed
  // only.
  static_cast<void>(madvise(block.get(), size, MADV_HUGEPAGE));
#endif
  return block;
}

/// Blocks that were given back, for the next window: the system would clear every page of a new one.
class BlockCache {
 public:
  Block take(std::int64_t n_bytes) {
    const std::scoped_lock lock(mutex_);
    const auto found = blocks_.find(n_bytes);
    if (found == blocks_.end()) {
      return nullptr;
    }
    kept_ -= n_bytes;
    return std::move(blocks_.extract(found).mapped());
  }

  void give_back(Block block, std::int64_t n_bytes) {
    const std::scoped_lock lock(mutex_);
    if (kept_ + n_bytes <= kMostKept) {
      kept_ += n_bytes;
      blocks_.emplace(n_bytes, std::move(block));
    }
  }

 private:
  std::mutex mutex_;
  std::multimap<std::int64_t, Block> blocks_;  // by size
  std::int64_t kept_ = 0;
};

// Never destroyed: tensors may be freed after the statics are.
BlockCache& block_cache() {
  static auto& cache = *std::make_unique<BlockCache>().release();
  return cache;
}

}  // namespace

at::Tensor empty_on_huge_pages(at::IntArrayRef sizes, at::ScalarType dtype) {
  const std::int64_t wanted = std::accumulate(
      sizes.begin(), sizes.end(), static_cast<std::int64_t>(c10::elementSize(dtype)), std::multiplies<>());
  if (wanted < kHugePage) {
    return at::empty(sizes, dtype);
  }
  const std::int64_t n_bytes = round_up(wanted, kHugePage);
  Block block = block_cache().take(n_bytes);
  if (!block) {
    block = allocate_block(n_bytes);
  }
  const auto give_back = [n_bytes](void* memory) { block_cache().give_back(Block(memory), n_bytes); };
  return at::from_blob(block.release(), sizes, give_back, dtype);
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
