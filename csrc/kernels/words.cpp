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

void pack_column_in_parts(const float* column, const WordPanels& packed, std::uint32_t* to) {
  const std::int64_t part = words_of(packed.depth, packed.type) * kPanelWidth;
  auto* first = reinterpret_cast<std::uint16_t*>(to);
  auto* second = reinterpret_cast<std::uint16_t*>(to + part);
  for (std::int64_t k = 0; k < packed.depth; ++k) {
    const std::int64_t place = k / 2 * kPanelWidth * 2 + k % 2;
    first[place] = c10::detail::round_to_nearest_even(column[k]);
    second[place] = c10::detail::round_to_nearest_even(column[k] - c10::detail::f32_from_bits(first[place]));
  }
}

void pack_column(const float* column, std::int64_t index, const WordPanels& packed, std::uint32_t* to) {
  switch (packed.type) {
    case WordType::kInt8:
      return pack_int8_column(column, index, packed, to);
    case WordType::kBfloat16:
      return pack_bfloat16_column(column, packed.depth, to);
    case WordType::kParts:
      return pack_column_in_parts(column, packed, to);
  }
}

constexpr std::size_t kCacheLine = 64;

// Rows of x as the products take them, and the scale of each. Each thread makes ready what it needs, which
// then is in its cache, and keeps the memory for the next product.
struct ReadyRows {
  std::vector<std::uint32_t> memory;
  std::vector<float> scale;
  std::uint32_t* words = nullptr;  // in memory, from a cache line on
  std::int64_t stride = 0;         // in words
  std::int64_t part = 0;           // from one part of all rows to the next, in words

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

constexpr std::int64_t parts_of_rows(WordType type) { return type == WordType::kParts ? kPartsOfRows : 1; }

// Rows [first, first + rows) of the product.
void make_rows_ready(const RowsAndColumns& product, WordType type, std::int64_t first, std::int64_t rows,
                     ReadyRows& ready) {
  const std::int64_t words = words_of(product.depth, type);
  // An odd number of cache lines, so that rows do not compete for the same places in the cache.
  ready.stride = words + (words / kWordsTogether % 2 == 0 ? kWordsTogether : 0);
  ready.part = rows * ready.stride;
  ready.reserve(parts_of_rows(type) * ready.part, rows);
  const KernelTable& table = kernels();
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* x = product.x + (first + row) * product.x_stride;
    std::uint32_t* to = ready.words + row * ready.stride;
    switch (type) {
      case WordType::kInt8:
        ready.scale[static_cast<std::size_t>(row)] = table.round_row(x, product.depth, words, to);
        break;
      case WordType::kBfloat16:
        table.shorten_row(x, product.depth, words, to);
        break;
      case WordType::kParts:
        table.split_row(x, product.depth, words, ready.part, to);
        break;
    }
  }
}

// Overlapping rows are made ready once, as one long row. What follows it is multiplied by zeros.
void make_sequence_ready(const RowsAndColumns& product, WordType type, std::int64_t first, std::int64_t rows,
                         ReadyRows& ready) {
  const float* x = product.x + first * product.x_stride;
  const std::int64_t numbers = (rows - 1) * product.x_stride + product.depth;
  const std::int64_t words = words_of(numbers, type) + kWordsTogether;
  ready.stride = product.x_stride / 2;
  ready.part = words;
  ready.reserve(parts_of_rows(type) * words, 0);
  if (type == WordType::kParts) {
    kernels().split_row(x, numbers, words, ready.part, ready.words);
  } else {
    kernels().shorten_row(x, numbers, words, ready.words);
  }
}

void make_ready(const RowsAndColumns& product, WordType type, std::int64_t first, std::int64_t rows,
                ReadyRows& ready) {
  if (product.x_stride < product.depth) {
    TORCH_INTERNAL_ASSERT(type != WordType::kInt8 && product.x_stride % 2 == 0);
    make_sequence_ready(product, type, first, rows, ready);
  } else {
    make_rows_ready(product, type, first, rows, ready);
  }
}

void (*product_of(WordType type))(const WordProduct&) {
  switch (type) {
    case WordType::kInt8:
      return kernels().multiply_rounded;
    case WordType::kBfloat16:
      return kernels().multiply_shortened;
    case WordType::kParts:
      return kernels().multiply_parts;
  }
  return nullptr;
}

std::int64_t rows_at_once(std::int64_t rows, std::int64_t words, std::int64_t panels) {
  const std::int64_t most = std::max(kRowsTogether, kBytesAtOnce / (4 * words));
  // Enough pieces to give every thread its share.
  const std::int64_t pieces = std::max((rows + most - 1) / most, (4 * at::get_num_threads() - 1) / panels);
  return round_up((rows + pieces - 1) / std::max<std::int64_t>(1, pieces), kRowsTogether);
}

}  // namespace

bool multiplies_fast(WordType type) {
  switch (type) {
    case WordType::kInt8:
      return has_isa(Isa::kAvx2);
    case WordType::kBfloat16:
      return kernels().multiply_shortened != nullptr;
    case WordType::kParts:
      return kernels().multiply_parts != nullptr;
  }
  return false;
}

void pack_words(const float* matrix, std::int64_t panel, const WordPanels& packed) {
  const std::int64_t size = panels_of_words(packed.type) * words_of(packed.depth, packed.type) * kPanelWidth;
  std::uint32_t* to = packed.words + panel * size;
  std::memset(to, 0, static_cast<std::size_t>(size) * sizeof(std::uint32_t));
  const std::int64_t first = panel * kPanelWidth;
  for (std::int64_t c = 0; c < kPanelWidth; ++c) {
    const bool present = first + c < packed.columns;
    const float* column = matrix + c * packed.depth;
    if (packed.type == WordType::kInt8 && !present) {
      packed.scale[first + c] = 0.0F;
      packed.sums[first + c] = 0;
    } else if (present) {
      pack_column(column, first + c, packed, to + c);
    }
  }
}

void multiply_words(const RowsAndColumns& product, const WordPanels& panels) {
  const std::int64_t words = words_of(product.depth, panels.type);
  const std::int64_t n_panel = panel_count(panels.columns);
  const std::int64_t at_once = rows_at_once(product.rows, parts_of_rows(panels.type) * words, n_panel);
  const std::int64_t n_block = (product.rows + at_once - 1) / at_once;
  const std::int64_t panel_size = panels_of_words(panels.type) * words * kPanelWidth;
  const auto multiply = product_of(panels.type);
  const std::int64_t work = std::min(product.rows, at_once) * words * kPanelWidth;
  const auto from = [](const float* pointer, std::int64_t offset) {
    return pointer == nullptr ? nullptr : pointer + offset;
  };
  const auto multiply_pieces = [&](std::int64_t begin, std::int64_t end) {
    static thread_local ReadyRows ready;
    std::int64_t ready_row = -1;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / n_panel * at_once;
      const std::int64_t rows = std::min(at_once, product.rows - row);
      if (row != ready_row) {
        make_ready(product, panels.type, row, rows, ready);
        ready_row = row;
      }
      const std::int64_t panel = i % n_panel;
      const std::int64_t column = panel * kPanelWidth;
      const std::int64_t place = row * product.columns + column;
      multiply({ready.words,
                ready.stride,
                rows,
                words,
                panels.words + panel * panel_size,
                ready.scale.data(),
                from(panels.scale, column),
                panels.sums == nullptr ? nullptr : panels.sums + column,
                {product.y + place,
                 product.columns,
                 std::min(kPanelWidth, product.columns - column),
                 {from(product.epilogue.bias, column), product.epilogue.gelu,
                  from(product.epilogue.residual, place)}},
                ready.part});
    }
  };
  at::parallel_for(0, n_block * n_panel,
                   std::max<std::int64_t>(1, kWorthAThread / std::max<std::int64_t>(1, work)),
                   multiply_pieces);
}

}  // namespace torchwhisper::kernels
