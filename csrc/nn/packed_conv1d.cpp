#include "csrc/nn/packed_conv1d.h"

#include <ATen/ATen.h>

#include "csrc/kernels/words.h"

namespace torchwhisper::nn {
namespace {

// [out, in, 3] -> [out, 3 * in], in the order of a window of x.
at::Tensor to_matrix(const at::Tensor& weight) { return weight.detach().transpose(1, 2).flatten(1); }

// The input varies too much from channel to channel for the integers of one scale.
Precision precision_of(ComputeType products, std::int64_t step) {
  const bool in_bfloat16 = products != ComputeType::kFloat32 && step % 2 == 0 &&
                           kernels::multiplies_fast(kernels::WordType::kBfloat16);
  return {at::kFloat, in_bfloat16 ? ComputeType::kBFloat16 : ComputeType::kFloat32};
}

}  // namespace

PackedConv1d::PackedConv1d(const at::Tensor& weight, const at::Tensor& bias, std::int64_t stride,
                           ComputeType products, WeightArena& arena)
    : step_(stride * weight.size(1)),
      product_(to_matrix(weight), bias, precision_of(products, step_),
               step_ % 2 == 0 ? Rows::kOverlapping : Rows::kFew, arena) {}

void PackedConv1d::forward_gelu(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& y) const {
  TORCH_INTERNAL_ASSERT(x.is_contiguous() && y.stride(2) == 1 && y.stride(1) == y.size(2));
  for (std::int64_t i = 0; i < x.size(0); ++i) {
    product_.multiply_into(
        x.const_data_ptr<float>() + i * x.stride(0), y.size(1), y.mutable_data_ptr<float>() + i * y.stride(0),
        {.gelu = true, .residual = residual.defined() ? residual.const_data_ptr<float>() : nullptr}, step_);
  }
}

}  // namespace torchwhisper::nn
