#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"

/// The backward pass of y = x W^T + b, for functions that are differentiated by hand.
namespace torchwhisper::nn {

/// The gradients of the parameters that require them, in the parameters' types; undefined for the others.
/// grad: [row, out] of y; x: [row, in], both in the type that the products ran in.
TORCHWHISPER_API Affine linear_backward(const at::Tensor& grad, const at::Tensor& x,
                                        const Affine& parameters);

/// The same for layers of one x and one size, whose outputs are joined in y: [row, layer * out].
TORCHWHISPER_API std::vector<Affine> joint_linear_backward(
    const at::Tensor& grad, const at::Tensor& x,
    const std::vector<std::reference_wrapper<const Affine>>& parameters);

/// The gradient of x: [row, in] in the type `dtype`. grad: [row, out]; weight: [out, in] in the same type.
TORCHWHISPER_API at::Tensor input_gradient(const at::Tensor& grad, const at::Tensor& weight,
                                           at::ScalarType dtype);

}  // namespace torchwhisper::nn
