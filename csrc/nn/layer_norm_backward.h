#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"

/// Layer normalisation for functions that are differentiated by hand.
namespace torchwhisper::nn {

/// A layer normalisation with what its backward pass needs.
struct Normed {
  at::Tensor out;
  at::Tensor mean;  // float32, of each row
  at::Tensor rstd;
};

/// Normalises x: [..., n_state] in float32; `out` has the type `dtype`.
TORCHWHISPER_API Normed normalise(const at::Tensor& x, const Affine& norm, at::ScalarType dtype);

struct LayerNormGradients {
  at::Tensor x;    // float32; undefined where not wanted
  Affine weights;  // in the types of the parameters; undefined for those that require none
};

/// grad: of `normed.out`, in any type and shape with the same number of elements.
TORCHWHISPER_API LayerNormGradients layer_norm_backward(const at::Tensor& grad, const at::Tensor& x,
                                                        const Normed& normed, const Affine& norm,
                                                        bool wants_x);

}  // namespace torchwhisper::nn
