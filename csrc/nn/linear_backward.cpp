#include "csrc/nn/linear_backward.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace torchwhisper::nn {
namespace {

// On CUDA a product of 16-bit numbers, which adds in float32, can leave it so.
bool gives_float(const at::Tensor& a, at::ScalarType dtype) {
  return a.is_cuda() && dtype == at::kFloat && at::isReducedFloatingType(a.scalar_type());
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  return gives_float(a, dtype) ? at::mm(a, b, dtype) : a.mm(b).to(dtype);
}

at::Tensor sum_of_rows(const at::Tensor& x, at::ScalarType dtype) {
  if (gives_float(x, dtype)) {
    // As a product, which reads x faster than the kernel for sums does.
    return product(at::ones({1, x.size(0)}, x.options()), x, dtype)[0];
  }
  return x.sum(0, /*keepdim=*/false, dtype);
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
    all.bias = sum_of_rows(grad, first.weight.scalar_type());
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
