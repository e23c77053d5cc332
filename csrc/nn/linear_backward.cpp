#include "csrc/nn/linear_backward.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace torchwhisper::nn {
namespace {

// On CUDA a product of 16-bit numbers, which adds in float32, can leave it so.
at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  if (a.is_cuda() && dtype == at::kFloat && at::isReducedFloatingType(a.scalar_type())) {
    return at::mm(a, b, dtype);
  }
  return a.mm(b).to(dtype);
}

bool wants_bias(const Affine& parameters) {
  return parameters.bias.defined() && parameters.bias.requires_grad();
}

}  // namespace

Affine linear_backward(const at::Tensor& grad, const at::Tensor& x, const Affine& parameters) {
  return joint_linear_backward(grad, x, {parameters})[0];
}

std::vector<Affine> joint_linear_backward(
    const at::Tensor& grad, const at::Tensor& x,
    const std::vector<std::reference_wrapper<const Affine>>& parameters) {
  const Affine& first = parameters[0];
  const std::int64_t n_out = first.weight.size(0);
  const bool weight = std::any_of(parameters.begin(), parameters.end(),
                                  [](const Affine& layer) { return layer.weight.requires_grad(); });
  Affine all;
  if (weight) {
    all.weight = product(grad.t(), x, first.weight.scalar_type());
  }
  if (std::any_of(parameters.begin(), parameters.end(), wants_bias)) {
    all.bias = grad.sum(0, /*keepdim=*/false, first.weight.scalar_type());
  }
  std::vector<Affine> gradients;
  std::int64_t at = 0;
  for (const Affine& layer : parameters) {
    gradients.push_back({layer.weight.requires_grad() ? all.weight.narrow(0, at, n_out) : at::Tensor(),
                         wants_bias(layer) ? all.bias.narrow(0, at, n_out) : at::Tensor()});
    at += n_out;
  }
  return gradients;
}

at::Tensor input_gradient(const at::Tensor& grad, const at::Tensor& weight, at::ScalarType dtype) {
  return product(grad, weight, dtype);
}

}  // namespace torchwhisper::nn
