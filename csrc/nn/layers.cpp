#include "csrc/nn/layers.h"

#include <ATen/ATen.h>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

constexpr std::int64_t kKernelSize = 3;

at::Tensor adopt(torch::nn::Module& module, const char* name, const at::Tensor& tensor) {
  return module.register_parameter(name, tensor, tensor.requires_grad());
}

}  // namespace

LinearImpl::LinearImpl(const Weights& given, std::int64_t n_in, std::int64_t n_out, bool with_bias)
    : weight(adopt(*this, "weight", given.take("weight", {n_out, n_in}))),
      bias(with_bias ? adopt(*this, "bias", given.take("bias", {n_out})) : at::Tensor()) {}

bool LinearImpl::is_prepared_for(const at::Tensor& x) const { return packed_ && packed_->serves(x); }

at::Tensor LinearImpl::forward(const at::Tensor& x) {
  return is_prepared_for(x) ? packed_->forward(x) : functional::linear(x, weight, bias);
}

at::Tensor LinearImpl::forward_gelu(const at::Tensor& x) {
  return is_prepared_for(x) ? packed_->forward_gelu(x) : at::gelu(functional::linear(x, weight, bias));
}

at::Tensor LinearImpl::forward_add(const at::Tensor& x, const at::Tensor& residual) {
  return is_prepared_for(x) ? packed_->forward_add(x, residual) : residual + forward(x);
}

void LinearImpl::prepare(Precision precision, Rows rows, WeightArena& arena) {
  packed_ = std::make_unique<const PackedLinear>(weight, bias, precision, rows, arena);
}

LayerNormImpl::LayerNormImpl(const Weights& given, std::int64_t n_state)
    : weight(adopt(*this, "weight", given.take("weight", {n_state}))),
      bias(adopt(*this, "bias", given.take("bias", {n_state}))) {}

at::Tensor LayerNormImpl::forward(const at::Tensor& x) {
  return prepared_weight_.defined() ? functional::layer_norm(x, prepared_weight_, prepared_bias_)
                                    : functional::layer_norm(x, weight, bias);
}

void LayerNormImpl::prepare() {
  prepared_weight_ = weight.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  prepared_bias_ = bias.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

void LayerNormImpl::forward_rows(const float* x, std::int64_t rows, float* y) const {
  functional::layer_norm_rows(x, rows, prepared_weight_, prepared_bias_, y);
}

Conv1dImpl::Conv1dImpl(const Weights& given, std::int64_t n_in, std::int64_t n_out, std::int64_t stride_)
    : weight(adopt(*this, "weight", given.take("weight", {n_out, n_in, kKernelSize}))),
      bias(adopt(*this, "bias", given.take("bias", {n_out}))),
      stride(stride_) {}

void Conv1dImpl::prepare(ComputeType products, WeightArena& arena) {
  packed_ = std::make_unique<const PackedConv1d>(weight, bias, stride, products, arena);
}

at::Tensor Conv1dImpl::forward(const at::Tensor& x) { return functional::conv1d(x, weight, bias, stride); }

}  // namespace torchwhisper::nn
