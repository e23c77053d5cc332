#include "csrc/nn/linear_backward.h"

#include <ATen/ATen.h>

namespace torchwhisper::nn {
namespace {

at::Tensor rows(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

}  // namespace

LinearGradients linear_backward(const at::Tensor& grad, const at::Tensor& x, const Affine& layer,
                                const Wanted& wanted) {
  // The products run in the type of the forward pass, which autocast may have chosen.
  const at::ScalarType dtype = grad.scalar_type();
  const at::Tensor grad_rows = rows(grad);
  LinearGradients gradients;
  if (wanted.weight) {
    gradients.weight = grad_rows.t().mm(rows(x).to(dtype)).to(layer.weight.scalar_type());
  }
  if (wanted.bias) {
    gradients.bias = grad_rows.sum(0).to(layer.bias.scalar_type());
  }
  if (wanted.x) {
    auto shape = grad.sizes().vec();
    shape.back() = layer.weight.size(1);
    gradients.x = grad_rows.mm(layer.weight.to(dtype)).view(shape);
  }
  return gradients;
}

}  // namespace torchwhisper::nn
