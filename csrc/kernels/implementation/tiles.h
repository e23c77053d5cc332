#pragma once

#include "csrc/kernels/implementation/word_vectors.h"
#include "csrc/kernels/table.h"

/// Products of words in AMX tiles of 16 rows and 64 bytes, for word_products.cpp.
namespace torchwhisper::kernels::TORCHWHISPER_ISA {

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)

inline constexpr std::int64_t kTileRows = 16;

struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t rows[16] = {};
};

/// Tiles 0 to 3 are sums and 4 and 5 are x, of `rows` rows each; 6 and 7 are weights.
inline void shape_tiles(std::int64_t rows) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    shapes.bytes[tile] = 64;
    shapes.rows[tile] = static_cast<std::uint8_t>(tile < 6 ? rows : kTileRows);
  }
  // The intrinsic tells the compiler of its first bytes only.
  __asm__ volatile("" : : "r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
}

// The tiles of an instruction are part of its name: hence macros.
#define TORCHWHISPER_TILE_PRODUCT(Words, sum, x, weight) \
  do {                                                   \
    if constexpr (Words::kInteger) {                     \
      _tile_dpbssd(sum, x, weight);                      \
    } else {                                             \
      _tile_dpbf16ps(sum, x, weight);                    \
    }                                                    \
  } while (false)

inline void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

/// sums[32][kPanelWidth], of which half a panel from `column` on: two tiles of rows by two of columns.
/// meanwhile() is called at every step: the tiles leave the vector units free.
template <typename Words, typename Meanwhile>
inline void multiply_square(const WordProduct& p, std::int64_t row, std::int64_t column,
                            typename Words::Number* sums, Meanwhile& meanwhile) {
  const std::uint32_t* x = p.x + row * p.x_stride;
  const std::uint32_t* lower = x + kTileRows * p.x_stride;
  const std::uint32_t* panel = p.panel + column;
  const auto x_bytes = static_cast<int>(p.x_stride * 4);
  constexpr int kPanelBytes = kPanelWidth * 4;
  clear_sums();
  for (std::int64_t w = 0; w < p.words; w += kWordsTogether) {
    _tile_loadd(4, x + w, x_bytes);
    _tile_loadd(6, panel + w * kPanelWidth, kPanelBytes);
    TORCHWHISPER_TILE_PRODUCT(Words, 0, 4, 6);
    _tile_loadd(7, panel + w * kPanelWidth + 16, kPanelBytes);
    TORCHWHISPER_TILE_PRODUCT(Words, 1, 4, 7);
    _tile_loadd(5, lower + w, x_bytes);
    TORCHWHISPER_TILE_PRODUCT(Words, 2, 5, 6);
    TORCHWHISPER_TILE_PRODUCT(Words, 3, 5, 7);
    meanwhile();
  }
  sums += column;
  _tile_stored(0, sums, kPanelBytes);
  _tile_stored(1, sums + 16, kPanelBytes);
  _tile_stored(2, sums + kTileRows * kPanelWidth, kPanelBytes);
  _tile_stored(3, sums + kTileRows * kPanelWidth + 16, kPanelBytes);
}

/// sums[rows of a tile][kPanelWidth].
template <typename Words>
inline void multiply_line(const WordProduct& p, std::int64_t row, typename Words::Number* sums) {
  constexpr std::int64_t kAhead = 2 * kWordsTogether;
  const std::uint32_t* x = p.x + row * p.x_stride;
  const auto x_bytes = static_cast<int>(p.x_stride * 4);
  constexpr int kPanelBytes = kPanelWidth * 4;
  clear_sums();
  for (std::int64_t w = 0; w < p.words; w += kWordsTogether) {
    const std::uint32_t* panel = p.panel + w * kPanelWidth;
    for (std::int64_t ahead = 0; ahead < kWordsTogether * kPanelWidth; ahead += 16) {
      __builtin_prefetch(panel + kAhead * kPanelWidth + ahead);
    }
    _tile_loadd(4, x + w, x_bytes);
    _tile_loadd(6, panel, kPanelBytes);
    TORCHWHISPER_TILE_PRODUCT(Words, 0, 4, 6);
    _tile_loadd(7, panel + 16, kPanelBytes);
    TORCHWHISPER_TILE_PRODUCT(Words, 1, 4, 7);
    _tile_loadd(6, panel + 32, kPanelBytes);
    TORCHWHISPER_TILE_PRODUCT(Words, 2, 4, 6);
    _tile_loadd(7, panel + 48, kPanelBytes);
    TORCHWHISPER_TILE_PRODUCT(Words, 3, 4, 7);
  }
  _tile_stored(0, sums, kPanelBytes);
  _tile_stored(1, sums + 16, kPanelBytes);
  _tile_stored(2, sums + 32, kPanelBytes);
  _tile_stored(3, sums + 48, kPanelBytes);
}

#undef TORCHWHISPER_TILE_PRODUCT

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
