#pragma once

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/kernels/panels.h"
#include "csrc/kernels/table.h"

/// Matrices [columns, depth] in panels of words (kernels/table.h): several int8 or bfloat16 in each word, in
/// the order in which the processor's dot products take them. The layout is the same for all processors.
/// kParts is for float32: numbers that float16 holds, as sums of bfloat16.
namespace torchwhisper::kernels {

enum class WordType { kInt8, kBfloat16, kParts };

/// Whether this processor multiplies words of the type faster than float32.
TORCHWHISPER_API bool multiplies_fast(WordType type);

/// How many words hold `depth` numbers.
constexpr std::int64_t words_of(std::int64_t depth, WordType type) {
  const std::int64_t together = kWordsTogether * (type == WordType::kInt8 ? 4 : 2);
  return (depth + together - 1) / together * kWordsTogether;
}

/// How many panels of words one panel of numbers takes.
constexpr std::int64_t panels_of_words(WordType type) {
  return type == WordType::kParts ? kPartsOfPanels : 1;
}

/// A matrix in panels.
struct WordPanels {
  WordType type;
  std::int64_t columns;
  std::int64_t depth;
  std::uint32_t* words;  // [panel_count(columns)][panels_of_words()][words_of(depth)][kPanelWidth]
  // Of int8 only, [panel_count(columns) * kPanelWidth] each:
  float* scale;        // by how much a column's integers were divided
  std::int32_t* sums;  // a column's integers together
};

/// Lays out one panel of `matrix`: [columns of that panel][depth]. int8 is rounded to the nearest multiple of
/// a column's largest magnitude / 127, bfloat16 to the nearest; of parts nothing is rounded. On the calling
/// thread.
TORCHWHISPER_API void pack_words(const float* matrix, std::int64_t panel, const WordPanels& packed);

/// y[rows][columns] = x[rows][depth] * matrix^T and its epilogue, on all threads. The rows of x are rounded
/// to the type of the matrix: int8 to the nearest multiple of a row's largest magnitude / 127. Of bfloat16
/// and parts they may overlap, with an even stride.
TORCHWHISPER_API void multiply_words(const RowsAndColumns& product, const WordPanels& panels);

}  // namespace torchwhisper::kernels
