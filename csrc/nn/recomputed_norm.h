#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"
#include "csrc/nn/replay.h"

namespace torchwhisper::nn {

/// A layer normalisation that a backward pass computes again, ready for its own backward pass.
class TORCHWHISPER_API RecomputedNorm {
 public:
  /// wanted: whether the gradients of x, weight and bias are. autocast: of the forward pass.
  RecomputedNorm(const at::Tensor& x, const Affine& norm, const std::array<bool, 3>& wanted,
                 const Autocast& autocast);

  bool wants_any() const { return wanted_[0] || wanted_[1] || wanted_[2]; }
  at::Tensor output() const { return out_.detach(); }

  /// grad: of the output, in any type -> the gradients of x, weight and bias, undefined where not wanted.
  std::array<at::Tensor, 3> backward(const at::Tensor& grad) const;

 private:
  std::array<bool, 3> wanted_;
  std::array<at::Tensor, 3> inputs_;
  at::Tensor out_;
};

}  // namespace torchwhisper::nn
