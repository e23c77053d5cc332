#include "csrc/model/fingerprint.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <vector>

namespace torchwhisper::model {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;
constexpr std::int64_t kChunksPerStep = 256;

struct Chunk {
  const std::byte* begin;
  std::int64_t size;
};

void append_chunks(const at::Tensor& tensor, std::vector<Chunk>& chunks) {
  const auto* bytes = static_cast<const std::byte*>(tensor.const_data_ptr());
  const auto size = static_cast<std::int64_t>(tensor.nbytes());
  for (std::int64_t offset = 0; offset < size; offset += kChunkBytes) {
    chunks.push_back({bytes + offset, std::min(kChunkBytes, size - offset)});
  }
}

}  // namespace

std::uint64_t fingerprint(const torch::nn::Module& module, common::Control& control) {
  std::vector<at::Tensor> tensors = module.parameters();
  for (const at::Tensor& buffer : module.buffers()) {
    tensors.push_back(buffer);
  }
  std::vector<Chunk> chunks;
  for (at::Tensor& tensor : tensors) {
    tensor = tensor.detach().cpu().contiguous();
    append_chunks(tensor, chunks);
  }
  std::vector<std::uint64_t> hashes(chunks.size());
  const auto n_chunk = static_cast<std::int64_t>(chunks.size());
  for (std::int64_t first = 0; first < n_chunk; first += kChunksPerStep) {
    const std::int64_t last = std::min(first + kChunksPerStep, n_chunk);
    at::parallel_for(first, last, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const auto& chunk = chunks[static_cast<std::size_t>(i)];
        hashes[static_cast<std::size_t>(i)] = XXH3_64bits(chunk.begin, static_cast<std::size_t>(chunk.size));
      }
    });
    control.step(common::Stage::kPrepare, last);
  }
  return XXH3_64bits(hashes.data(), hashes.size() * sizeof(std::uint64_t));
}

}  // namespace torchwhisper::model
