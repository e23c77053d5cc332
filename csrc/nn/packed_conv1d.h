#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/nn/compute_type.h"
#include "csrc/nn/huge_pages.h"
#include "csrc/nn/packed_linear.h"

namespace torchwhisper::nn {

/// Weights of a convolution over time derived once for inference on a CPU with float32 activations. Channels
/// lie next to each other in rows of time, so that it is one product whose rows overlap. Where products are
/// in bfloat16, or in int8 on a processor that multiplies bfloat16 fast, it is in bfloat16, else in float32.
class TORCHWHISPER_API PackedConv1d {
 public:
  /// weight: [out, in, 3], bias: [out].
  PackedConv1d(const at::Tensor& weight, const at::Tensor& bias, std::int64_t stride, ComputeType products,
               WeightArena& arena);

  /// gelu of the convolution of x: [batch, time + 2, in], whose first and last rows are the padding, plus
  /// `residual` ([time / stride, out] float32, or undefined) -> y: [batch, time / stride, out], given by the
  /// caller, whose recordings may lie apart. No gradients.
  void forward_gelu(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& y) const;

 private:
  std::int64_t step_;  // numbers from one window of x to the next
  PackedLinear product_;
};

}  // namespace torchwhisper::nn
