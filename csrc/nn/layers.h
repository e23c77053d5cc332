#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>

#include "csrc/common/api.h"
#include "csrc/nn/packed_conv1d.h"
#include "csrc/nn/packed_linear.h"
#include "csrc/nn/weights.h"

/// The leaf modules, with upstream's parameter names. All of them adopt the tensors they are given: the
/// parameter is the caller's tensor, not a copy.
namespace torchwhisper::nn {

/// y = x W^T + b with the weights cast to the type of x.
struct TORCHWHISPER_API LinearImpl : torch::nn::Module {
  LinearImpl(const Weights& given, std::int64_t n_in, std::int64_t n_out, bool with_bias = true);

  at::Tensor forward(const at::Tensor& x);                                  // x: [..., n_in] -> [..., n_out]
  at::Tensor forward_gelu(const at::Tensor& x);                             // gelu(forward(x))
  at::Tensor forward_add(const at::Tensor& x, const at::Tensor& residual);  // residual + forward(x)

  /// What prepare() made, or null.
  const PackedLinear* packed() const { return packed_.get(); }

  /// Derives the weights for inference . They do not follow later changes of the parameters.
  void prepare(Precision precision, Rows rows, WeightArena& arena);

  at::Tensor weight;  // [n_out, n_in]
  at::Tensor bias;    // [n_out], or undefined

 private:
  bool is_prepared_for(const at::Tensor& x) const;

  std::unique_ptr<const PackedLinear> packed_;
};
TORCH_MODULE(Linear);

/// Layer normalisation in float32 that returns the type of its input.
struct TORCHWHISPER_API LayerNormImpl : torch::nn::Module {
  LayerNormImpl(const Weights& given, std::int64_t n_state);

  at::Tensor forward(const at::Tensor& x);  // x: [..., n_state]

  /// Keeps the parameters in float32 for inference. The copies do not follow later changes.
  void prepare();

  /// forward() on plain rows [rows][n_state] of float32, after prepare().
  void forward_rows(const float* x, std::int64_t rows, float* y) const;

  at::Tensor weight;  // [n_state]
  at::Tensor bias;    // [n_state]

 private:
  at::Tensor prepared_weight_;
  at::Tensor prepared_bias_;
};
TORCH_MODULE(LayerNorm);

/// Convolution over time with kernel 3 and padding 1.
struct TORCHWHISPER_API Conv1dImpl : torch::nn::Module {
  Conv1dImpl(const Weights& given, std::int64_t n_in, std::int64_t n_out, std::int64_t stride);

  at::Tensor forward(const at::Tensor& x);  // x: [batch, n_in, time] -> [batch, n_out, time / stride]

  /// Derives the weights for inference on a CPU. They do not follow later changes of the parameters.
  void prepare(ComputeType products, WeightArena& arena);

  /// What prepare() made, or null.
  const PackedConv1d* packed() const { return packed_.get(); }

  at::Tensor weight;  // [n_out, n_in, 3]
  at::Tensor bias;    // [n_out]
  std::int64_t stride;

 private:
  std::unique_ptr<const PackedConv1d> packed_;
};
TORCH_MODULE(Conv1d);

}  // namespace torchwhisper::nn
