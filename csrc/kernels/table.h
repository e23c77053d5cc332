#pragma once

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/kernels/isa.h"

/// Inner loops for the CPU, compiled once for each instruction set and chosen when the program runs.
namespace torchwhisper::kernels {

/// How many columns of a matrix lie next to each other in a panel: [depth][kPanelWidth].
inline constexpr std::int64_t kPanelWidth = 64;

/// What is done with a product before it is stored, in this order.
struct Epilogue {
  const float* bias = nullptr;      // [columns], added where it is given
  bool gelu = false;                // x * Phi(x): the exact one, to 1e-4 after words
  const float* residual = nullptr;  // of the shape and strides of y, added where it is given
};

/// A product of few rows with one panel: y[row][column] = sum over depth of x[row][k] * panel[k][column],
/// times the column's scale (int8 panels).
struct PanelProduct {
  const float* x;  // [rows][depth]
  std::int64_t x_stride;
  std::int64_t rows;
  std::int64_t depth;
  float* y;  // [rows][columns]
  std::int64_t y_stride;
  std::int64_t columns;  // at most kPanelWidth
  Epilogue epilogue = {};
};

/// Where a product goes and what is done with it before.
struct Output {
  float* y;  // [rows][columns]
  std::int64_t y_stride;
  std::int64_t columns;  // at most kPanelWidth
  Epilogue epilogue = {};
};

/// Panels of words hold several numbers of one column in each word of 32 bits: [words][kPanelWidth], where
/// word w of a column holds four int8 from depth 4 w on, or two bfloat16 from depth 2 w on. The depth is
/// filled up with zeros to whole multiples of kWordsTogether.
inline constexpr std::int64_t kWordsTogether = 16;

/// Products in float32 take numbers apart into sums of bfloat16: three hold any number, two hold what float16
/// does. The first part is the largest. Each part of a matrix is a panel of words of its own, one after the
/// other.
inline constexpr std::int64_t kPartsOfRows = 3;
inline constexpr std::int64_t kPartsOfPanels = 2;

/// A product of rows with one panel of words.
struct WordProduct {
  const std::uint32_t*
      x;  // [rows][words], made by round_row(), shorten_row() or split_row() of the same table
  std::int64_t x_stride;  // in words
  std::int64_t rows;
  std::int64_t words;
  const std::uint32_t* panel;
  const float* row_scale;           // [rows]; of int8 only, as the next two
  const float* column_scale;        // [kPanelWidth]
  const std::int32_t* column_sums;  // [kPanelWidth]: each column's integers together
  Output out;
  std::int64_t x_part = 0;  // of parts: from one part of x to the next, in words
};

/// How many queries attend_shortened() takes at once.
inline constexpr std::int64_t kShortQueries = 32;

/// One head of attention with some queries, whose keys are the columns of panels of bfloat16 words and whose
/// values are the rows of one panel.
struct ShortAttention {
  const float* q;  // [rows][q_stride], of which `dim` count
  std::int64_t q_stride;
  std::int64_t rows;  // at most kShortQueries
  std::int64_t dim;   // at most kPanelWidth
  std::int64_t dim_words;
  std::int64_t time;  // how many keys and values
  std::int64_t time_words;
  const std::uint32_t* keys;    // panels [dim_words][kPanelWidth] for all 2 * time_words columns
  const std::uint32_t* values;  // [time_words][kPanelWidth]
  float scale;                  // more than 0
  float* y;                     // [rows][y_stride]
  std::int64_t y_stride;
  float* scratch;  // [3 * kShortQueries * time_words], begins on a cache line
};

struct KernelTable {
  void (*multiply)(const PanelProduct& product, const float* panel);
  /// The same in float32 with a panel that is kept in float16, all of it finite.
  void (*multiply_half)(const PanelProduct& product, const std::uint16_t* panel);
  /// The same with one that is kept in bfloat16.
  void (*multiply_bfloat16)(const PanelProduct& product, const std::uint16_t* panel);
  /// The same with one in int8. scale: [columns].
  void (*multiply_int8)(const PanelProduct& product, const std::int8_t* panel, const float* scale);
  /// Rounds n numbers to int8, in the form that multiply_rounded() takes, and returns their scale: x[i] is
  /// within scale / 2 of the integer times scale.
  float (*round_row)(const float* x, std::int64_t n, std::int64_t words, std::uint32_t* rounded);
  /// y = x * panel in integers, times row_scale * column_scale. The integers are the same in every table.
  void (*multiply_rounded)(const WordProduct& product);
  /// The same with bfloat16 and sums in float32; null where the processor cannot multiply bfloat16.
  void (*shorten_row)(const float* x, std::int64_t n, std::int64_t words, std::uint32_t* shortened);
  void (*multiply_shortened)(const WordProduct& product);
  /// The same with parts: the product in float32. Null where the processor has no tiles.
  /// split_row() puts the parts of n numbers `part` words from each other.
  void (*split_row)(const float* x, std::int64_t n, std::int64_t words, std::int64_t part,
                    std::uint32_t* parts);
  void (*multiply_parts)(const WordProduct& product);
  /// y = softmax(q k^T * scale) v with what is multiplied in bfloat16. Null as shorten_row().
  void (*attend_shortened)(const ShortAttention& attention);
  /// The sum of x[i] * y[i].
  float (*dot)(const float* x, const float* y, std::int64_t n);
  /// The largest of n >= 1 numbers, none of them NaN.
  float (*maximum)(const float* x, std::int64_t n);
  /// log(sum(exp(x))) of n >= 1 numbers of which at least one is finite.
  float (*log_sum_exp)(const float* x, std::int64_t n);
  /// x = exp((x - max(x)) * scale), in place; returns the sum of all.
  float (*exponentials)(float* x, std::int64_t n, float scale);
  /// y = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, of n >= 1 numbers.
  void (*layer_norm)(const float* x, std::int64_t n, const float* weight, const float* bias, float epsilon,
                     float* y);
};

/// The kernels of best_isa().
TORCHWHISPER_API const KernelTable& kernels();

/// Those of one instruction set, or null where it is above best_isa() or was not compiled.
TORCHWHISPER_API const KernelTable* kernels_for(Isa isa);

}  // namespace torchwhisper::kernels
