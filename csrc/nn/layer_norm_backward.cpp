#include "csrc/nn/layer_norm_backward.h"

#include <ATen/ATen.h>

#include <tuple>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

at::Tensor cast_back(const at::Tensor& gradient, const at::Tensor& parameter) {
  return gradient.defined() ? gradient.to(parameter.scalar_type()) : gradient;
}

}  // namespace

Normed normalise(const at::Tensor& x, const Affine& norm, at::ScalarType dtype) {
  auto [out, mean, rstd] =
      at::native_layer_norm(x.to(at::kFloat), norm.weight.sizes(), norm.weight.to(at::kFloat),
                            norm.bias.to(at::kFloat), functional::kLayerNormEps);
  return {out.to(dtype), mean, rstd};
}

LayerNormGradients layer_norm_backward(const at::Tensor& grad, const at::Tensor& x, const Normed& normed,
                                       const Affine& norm, bool wants_x) {
  const auto [of_x, of_weight, of_bias] = at::native_layer_norm_backward(
      grad.to(at::kFloat).view(x.sizes()), x.to(at::kFloat), norm.weight.sizes(), normed.mean, normed.rstd,
      norm.weight.to(at::kFloat), norm.bias.to(at::kFloat),
      {wants_x, norm.weight.requires_grad(), norm.bias.requires_grad()});
  return {of_x, {cast_back(of_weight, norm.weight), cast_back(of_bias, norm.bias)}};
}

}  // namespace torchwhisper::nn
