#include "csrc/kernels/words.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

namespace torchwhisper::kernels {
namespace {

// Below this many multiplications a second thread costs more than it gives.
constexpr std::int64_t kWorthAThread = 80'000;
// So many numbers of x are made ready in the time that a second thread takes to start.
constexpr std::int64_t kNumbersPerThread = 16'384;
// Rows that fit into a core's cache beside a panel.
constexpr std::int64_t kBytesAtOnce = std::int64_t{512} * 1024;
constexpr std::int64_t kRowsTogether = 32;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void pack_int8_column(const float* column, std::int64_t index, const WordPanels& packed, std::uint32_t* to) {
  float largest = 0.0F;
  for (std::int64_t k = 0; k < packed.depth; ++k) {
    largest = std::max(largest, std::abs(column[k]));
  }
  const float scale = largest / 127.0F;
  std::int32_t sum = 0;
  auto* bytes = reinterpret_cast<std::int8_t*>(to);
  for (std::int64_t k = 0; k < packed.depth; ++k) {
    const float quotient = column[k] / scale;
    const auto rounded = static_cast<std::int8_t>(std::isfinite(quotient) ? std::nearbyint(quotient) : 0.0F);
    bytes[k / 4 * kPanelWidth * 4 + k % 4] = rounded;
    sum += rounded;
  }
  packed.scale[index] = scale;
  packed.sums[index] = sum;
}

void pack_bfloat16_column(const float* column, std::int64_t depth, std::uint32_t* to) {
  auto* halves = reinterpret_cast<std::uint16_t*>(to);
  for (std::int64_t k = 0; k < depth; ++k) {
    halves[k / 2 * kPanelWidth * 2 + k % 2] = c10::detail::round_to_nearest_even(column[k]);
  }
}

constexpr std::size_t kCacheLine = 64;

// Rows of x as the products take them, and the scale of each. Kept for the next product of the same thread.
struct ReadyRows {
  std::vector<std::uint32_t> memory;
  std::vector<float> scale;
  std::uint32_t* words = nullptr;  // in memory, from a cache line on
  std::int64_t stride = 0;         // in words

  void reserve(std::int64_t n_word, std::int64_t n_row) {
    const std::size_t size = static_cast<std::size_t>(n_word) + kCacheLine / sizeof(std::uint32_t);
    if (memory.size() < size) {
      memory.resize(size);
      void* begin = memory.data();
      std::size_t space = size * sizeof(std::uint32_t);
      words = static_cast<std::uint32_t*>(std::align(kCacheLine, 0, begin, space));
    }
    scale.resize(std::max(scale.size(), static_cast<std::size_t>(n_row)));
  }
};

void make_rows_ready(const RowsAndColumns& product, WordType type, ReadyRows& ready) {
  const std::int64_t words = words_of(product.depth, type);
  // An odd number of cache lines, so that rows do not compete for the same places in the cache.
  ready.stride = words + (words / kWordsTogether % 2 == 0 ? kWordsTogether : 0);
  ready.reserve(product.rows * ready.stride, product.rows);
  at::parallel_for(0, product.rows, std::max<std::int64_t>(1, kNumbersPerThread / product.depth),
                   [&](std::int64_t begin, std::int64_t end) {
                     const KernelTable& table = kernels();
                     for (std::int64_t row = begin; row < end; ++row) {
                       const float* x = product.x + row * product.x_stride;
                       std::uint32_t* to = ready.words + row * ready.stride;
                       if (type == WordType::kInt8) {
                         ready.scale[static_cast<std::size_t>(row)] =
                             table.round_row(x, product.depth, words, to);
                       } else {
                         table.shorten_row(x, product.depth, words, to);
                       }
                     }
                   });
}

// Overlapping rows are made ready once, as one long row. What follows it is multiplied by zeros.
void make_sequence_ready(const RowsAndColumns& product, ReadyRows& ready) {
  const std::int64_t numbers = (product.rows - 1) * product.x_stride + product.depth;
  const std::int64_t words = words_of(numbers, WordType::kBfloat16) + kWordsTogether;
  ready.stride = product.x_stride / 2;
  ready.reserve(words, 0);
  at::parallel_for(0, words, kNumbersPerThread, [&](std::int64_t begin, std::int64_t end) {
    // What begins elsewhere than at a whole vector would overlap the words of the next thread.
    const auto whole = [words](std::int64_t i) {
      return i == words ? i : i / kWordsTogether * kWordsTogether;
    };
    const std::int64_t first = whole(begin);
    kernels().shorten_row(product.x + 2 * first, numbers - 2 * first, whole(end) - first,
                          ready.words + first);
  });
}

const ReadyRows& make_ready(const RowsAndColumns& product, WordType type) {
  static thread_local ReadyRows ready;
  ReadyRows& rows = ready;  // of this thread, in all of them
  if (product.x_stride < product.depth) {
    TORCH_INTERNAL_ASSERT(type == WordType::kBfloat16 && product.x_stride % 2 == 0);
    make_sequence_ready(product, rows);
  } else {
    make_rows_ready(product, type, rows);
  }
  return rows;
}

std::int64_t rows_at_once(std::int64_t rows, std::int64_t words, std::int64_t panels) {
  const std::int64_t most = std::max(kRowsTogether, kBytesAtOnce / (4 * words));
  // Enough pieces to give every thread its share.
  const std::int64_t pieces = std::max((rows + most - 1) / most, (4 * at::get_num_threads() - 1) / panels);
  return round_up((rows + pieces - 1) / std::max<std::int64_t>(1, pieces), kRowsTogether);
}

}  // namespace

bool multiplies_fast(WordType type) {
  return type == WordType::kInt8 ? has_isa(Isa::kAvx2) : kernels().multiply_shortened != nullptr;
}

void pack_words(const float* matrix, std::int64_t panel, const WordPanels& packed) {
  const std::int64_t size = words_of(packed.depth, packed.type) * kPanelWidth;
  std::uint32_t* to = packed.words + panel * size;
  std::memset(to, 0, static_cast<std::size_t>(size) * sizeof(std::uint32_t));
  const std::int64_t first = panel * kPanelWidth;
  for (std::int64_t c = 0; c < kPanelWidth; ++c) {
    const bool present = first + c < packed.columns;
    const float* column = matrix + c * packed.depth;
    if (packed.type == WordType::kBfloat16) {
      if (present) {
        pack_bfloat16_column(column, packed.depth, to + c);
      }
    } else if (present) {
      pack_int8_column(column, first + c, packed, to + c);
    } else {
      packed.scale[first + c] = 0.0F;
      packed.sums[first + c] = 0;
    }
  }
}

void multiply_words(const RowsAndColumns& product, const WordPanels& panels) {
  const ReadyRows& ready = make_ready(product, panels.type);
  const std::int64_t words = words_of(product.depth, panels.type);
  const std::int64_t n_panel = panel_count(panels.columns);
  const std::int64_t at_once = rows_at_once(product.rows, words, n_panel);
  const std::int64_t n_block = (product.rows + at_once - 1) / at_once;
  const auto multiply =
      panels.type == WordType::kInt8 ? kernels().multiply_rounded : kernels().multiply_shortened;
  const std::int64_t work = std::min(product.rows, at_once) * words * kPanelWidth;
  const auto from = [](const float* pointer, std::int64_t offset) {
    return pointer == nullptr ? nullptr : pointer + offset;
  };
  at::parallel_for(0, n_block * n_panel,
                   std::max<std::int64_t>(1, kWorthAThread / std::max<std::int64_t>(1, work)),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i) {
                       const std::int64_t row = i / n_panel * at_once;
                       const std::int64_t panel = i % n_panel;
                       const std::int64_t column = panel * kPanelWidth;
                       const std::int64_t place = row * product.columns + column;
                       multiply({ready.words + row * ready.stride,
                                 ready.stride,
                                 std::min(at_once, product.rows - row),
                                 words,
                                 panels.words + panel * words * kPanelWidth,
                                 ready.scale.data() + row,
                                 from(panels.scale, column),
                                 panels.sums == nullptr ? nullptr : panels.sums + column,
                                 {product.y + place,
                                  product.columns,
                                  std::min(kPanelWidth, product.columns - column),
                                  {from(product.epilogue.bias, column), product.epilogue.gelu,
                                   from(product.epilogue.residual, place)}}});
                     }
                   });
}

}  // namespace torchwhisper::kernels
