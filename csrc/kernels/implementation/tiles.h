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

// What is multiplied with what, from the smallest products to the largest: neighbours share one of the two.
// The third part of a row times the second of a panel is beyond what float32 keeps.
struct PartPair {
  std::int64_t row;
  std::int64_t panel;
};
inline constexpr PartPair kPartPairs[] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 0}};

#define TORCHWHISPER_SQUARE_PRODUCT(Words)     \
  do {                                         \
    TORCHWHISPER_TILE_PRODUCT(Words, 0, 4, 6); \
    TORCHWHISPER_TILE_PRODUCT(Words, 1, 4, 7); \
    TORCHWHISPER_TILE_PRODUCT(Words, 2, 5, 6); \
    TORCHWHISPER_TILE_PRODUCT(Words, 3, 5, 7); \
  } while (false)

/// One step of multiply_square() with parts.
template <typename Words>
inline void multiply_parts_of_square(const WordProduct& p, const std::uint32_t* x,
                                     const std::uint32_t* panel) {
  const std::uint32_t* lower = x + kTileRows * p.x_stride;
  const auto x_bytes = static_cast<int>(p.x_stride * 4);
  constexpr int kPanelBytes = kPanelWidth * 4;
  PartPair last{-1, -1};
  for (const PartPair pair : kPartPairs) {
    if (pair.row != last.row) {
      _tile_loadd(4, x + pair.row * p.x_part, x_bytes);
      _tile_loadd(5, lower + pair.row * p.x_part, x_bytes);
    }
    if (pair.panel != last.panel) {
      const std::uint32_t* weight = panel + pair.panel * p.words * kPanelWidth;
      _tile_loadd(6, weight, kPanelBytes);
      _tile_loadd(7, weight + 16, kPanelBytes);
    }
    TORCHWHISPER_SQUARE_PRODUCT(Words);
    last = pair;
  }
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
    if constexpr (Words::kInParts) {
      multiply_parts_of_square<Words>(p, x + w, panel + w * kPanelWidth);
    } else {
      _tile_loadd(4, x + w, x_bytes);
      _tile_loadd(6, panel + w * kPanelWidth, kPanelBytes);
      TORCHWHISPER_TILE_PRODUCT(Words, 0, 4, 6);
      _tile_loadd(7, panel + w * kPanelWidth + 16, kPanelBytes);
      TORCHWHISPER_TILE_PRODUCT(Words, 1, 4, 7);
      _tile_loadd(5, lower + w, x_bytes);
      TORCHWHISPER_TILE_PRODUCT(Words, 2, 5, 6);
      TORCHWHISPER_TILE_PRODUCT(Words, 3, 5, 7);
    }
    meanwhile();
  }
  sums += column;
  _tile_stored(0, sums, kPanelBytes);
  _tile_stored(1, sums + 16, kPanelBytes);
  _tile_stored(2, sums + kTileRows * kPanelWidth, kPanelBytes);
  _tile_stored(3, sums + kTileRows * kPanelWidth + 16, kPanelBytes);
}

/// One step of multiply_line().
template <typename Words>
inline void multiply_strip(const std::uint32_t* x, int x_bytes, const std::uint32_t* panel) {
  constexpr int kPanelBytes = kPanelWidth * 4;
  _tile_loadd(4, x, x_bytes);
  _tile_loadd(6, panel, kPanelBytes);
  TORCHWHISPER_TILE_PRODUCT(Words, 0, 4, 6);
  _tile_loadd(7, panel + 16, kPanelBytes);
  TORCHWHISPER_TILE_PRODUCT(Words, 1, 4, 7);
  _tile_loadd(6, panel + 32, kPanelBytes);
  TORCHWHISPER_TILE_PRODUCT(Words, 2, 4, 6);
  _tile_loadd(7, panel + 48, kPanelBytes);
  TORCHWHISPER_TILE_PRODUCT(Words, 3, 4, 7);
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
    if constexpr (Words::kInParts) {
      for (const PartPair pair : kPartPairs) {
        multiply_strip<Words>(x + w + pair.row * p.x_part, x_bytes,
                              panel + pair.panel * p.words * kPanelWidth);
      }
    } else {
      for (std::int64_t ahead = 0; ahead < kWordsTogether * kPanelWidth; ahead += 16) {
        __builtin_prefetch(panel + kAhead * kPanelWidth + ahead);
      }
      multiply_strip<Words>(x + w, x_bytes, panel);
    }
  }
  _tile_stored(0, sums, kPanelBytes);
  _tile_stored(1, sums + 16, kPanelBytes);
  _tile_stored(2, sums + 32, kPanelBytes);
  _tile_stored(3, sums + 48, kPanelBytes);
}

#undef TORCHWHISPER_SQUARE_PRODUCT
#undef TORCHWHISPER_TILE_PRODUCT

#endif

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
