#pragma once

#include <ATen/SDPBackend.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

#include "csrc/common/api.h"

/// torch's attention kernels for functions that are differentiated by hand.
namespace torchwhisper::nn {

/// What attention leaves for its backward pass.
struct Attended {
  at::Tensor out;        // [batch, head, time, dim]
  at::Tensor logsumexp;  // of the scores; this and the next two as the kernel wants them
  at::Tensor seed;
  at::Tensor offset;
  at::SDPBackend kernel = at::SDPBackend::math;
};

/// functional::attention() outside of autograd, by the kernel that torch chooses.
TORCHWHISPER_API Attended attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal);

/// The gradients of q, k and v. grad: of `attended.out`.
TORCHWHISPER_API std::array<at::Tensor, 3> attend_backward(const at::Tensor& grad, const at::Tensor& q,
                                                           const at::Tensor& k, const at::Tensor& v,
                                                           const Attended& attended, bool causal);

}  // namespace torchwhisper::nn
