#pragma once

#include <ATen/core/Tensor.h>

#include "csrc/common/api.h"
#include "csrc/nn/huge_pages.h"

namespace torchwhisper::nn {

/// Weights of a linear layer derived once for inference in one type: on a CPU in float32 laid out by oneDNN
/// for few and many rows alike, elsewhere cast. Read-only after construction, so threads may share it.
class TORCHWHISPER_API PackedLinear {
 public:
  /// weight: [out, in], bias: [out] or undefined. Weights on the CPU are placed in `arena`.
  PackedLinear(const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype, WeightArena& arena);

  /// x: [..., in] of the type given at construction -> [..., out]. No gradients.
  at::Tensor forward(const at::Tensor& x) const;

  /// gelu(forward(x)) in one pass over the output.
  at::Tensor forward_gelu(const at::Tensor& x) const;

  at::ScalarType dtype() const { return dtype_; }

 private:
  at::ScalarType dtype_;
  bool onednn_;
  at::Tensor memory_;  // what weight_ lies in, where oneDNN laid it out
  at::Tensor weight_;
  at::Tensor bias_;
};

}  // namespace torchwhisper::nn
