#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/kernels/table.h"
#include "csrc/kernels/words.h"
#include "csrc/nn/compute_type.h"
#include "csrc/nn/huge_pages.h"

namespace torchwhisper::nn {

/// How many rows a linear layer mostly meets: an encoder's a whole window, a decoder's one for each beam.
/// kOverlapping: many that overlap, as those of a convolution do, with an even stride.
enum class Rows { kMany, kFew, kOverlapping };

/// Weights of a linear layer derived once for inference in one precision: on a CPU in float32 laid out for
/// many rows in parts (kernels/words.h) or by oneDNN, for few rows in panels (kernels/panels.h), which are in
/// float16 where that holds the weight exactly; in int8 and bfloat16 in panels of words (kernels/words.h);
/// elsewhere cast. Every layout takes any number of rows. Read-only after construction, so threads may share
/// it.
class TORCHWHISPER_API PackedLinear {
 public:
  /// weight: [out, in], bias: [out] or undefined. Weights on the CPU are placed in `arena`.
  PackedLinear(const at::Tensor& weight, const at::Tensor& bias, Precision precision, Rows rows,
               WeightArena& arena);

  /// Whether x has the type of activations given at construction.
  bool serves(const at::Tensor& x) const { return x.scalar_type() == dtype_; }

  /// x: [..., in] of the type given at construction -> [..., out]. No gradients.
  at::Tensor forward(const at::Tensor& x) const;

  /// gelu(forward(x)).
  at::Tensor forward_gelu(const at::Tensor& x) const;

  /// residual + forward(x).
  at::Tensor forward_add(const at::Tensor& x, const at::Tensor& residual) const;

  /// The same on plain rows, for layouts of our own (is_by_kernel()): x: [rows][in] with x_stride from one
  /// row to the next, which may overlap -> y: [rows][out]. The bias is added; the epilogue says what else.
  void multiply_into(const float* x, std::int64_t rows, float* y, kernels::Epilogue epilogue,
                     std::int64_t x_stride) const;
  void multiply_into(const float* x, std::int64_t rows, float* y, kernels::Epilogue epilogue = {}) const {
    multiply_into(x, rows, y, epilogue, n_in_);
  }

  bool is_by_kernel() const { return layout_ == Layout::kPanels || layout_ == Layout::kWords; }

 private:
  enum class Layout { kPlain, kOneDnn, kPanels, kWords };

  static Layout layout_for(const at::Tensor& weight, Precision precision, Rows rows);
  at::Tensor multiply(const at::Tensor& x, const kernels::Epilogue& epilogue) const;

  at::ScalarType dtype_;
  Layout layout_;
  std::int64_t n_in_;
  std::int64_t n_out_;
  at::Tensor memory_;  // what weight_ lies in, where oneDNN laid it out
  at::Tensor weight_;
  kernels::WordPanels words_{};  // what weight_ holds, where it holds words
  at::Tensor bias_;
};

}  // namespace torchwhisper::nn
