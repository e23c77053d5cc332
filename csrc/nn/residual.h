#pragma once

#include <ATen/ATen.h>

/// Small steps that the halves of a residual block share when they are differentiated by hand.
namespace torchwhisper::nn {

/// [..., n] -> [row, n].
inline at::Tensor rows(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

/// residual + y, which overwrites y where the types allow it.
inline at::Tensor add_residual(const at::Tensor& y, const at::Tensor& residual) {
  return at::result_type(y, residual) == y.scalar_type() ? y.add_(residual) : residual + y;
}

/// grad + of_branch in the type of grad: the gradient of x, which both the residual and the branch lead to.
/// of_branch: float32; may be overwritten.
inline at::Tensor add_to_gradient(const at::Tensor& of_branch, const at::Tensor& grad) {
  if (grad.scalar_type() == of_branch.scalar_type()) {
    return of_branch.add_(grad);
  }
  at::Tensor sum = at::empty_like(grad);
  return at::add_out(sum, of_branch, grad.view(of_branch.sizes())).view(grad.sizes());
}

}  // namespace torchwhisper::nn
