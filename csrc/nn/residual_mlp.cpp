#include "csrc/nn/residual_mlp.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "csrc/nn/functional.h"
#include "csrc/nn/linear_backward.h"
#include "csrc/nn/recomputed_norm.h"
#include "csrc/nn/replay.h"

namespace torchwhisper::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ResidualMlp : torch::autograd::Function<ResidualMlp> {
  static at::Tensor forward(AutogradContext* ctx, at::TensorList tensors, bool keep_product) {
    const MlpWeights weights{{tensors[1], tensors[2]}, {tensors[3], tensors[4]}, {tensors[5], tensors[6]}};
    const at::Tensor& x = tensors[0];
    const auto autocast = Autocast::current(x.device().type());
    const AutocastGuard uncached(autocast);
    const at::Tensor product =
        functional::linear(functional::layer_norm_for_training(x, weights.norm.weight, weights.norm.bias),
                           weights.expand.weight, weights.expand.bias);
    variable_list saved = tensors.vec();
    if (keep_product) {
      saved.push_back(product);
    }
    ctx->save_for_backward(std::move(saved));
    autocast.save(*ctx);
    return x + functional::linear(at::gelu(product), weights.contract.weight, weights.contract.bias);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    refuse_double_backward();
    const variable_list saved = ctx->get_saved_variables();
    std::array<bool, 7> wanted;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      wanted[i] = ctx->needs_input_grad(i);
    }
    const MlpWeights weights{{saved[1], saved[2]}, {saved[3], saved[4]}, {saved[5], saved[6]}};
    const at::Tensor product = saved.size() > wanted.size() ? saved.back() : at::Tensor();
    const auto gradients =
        residual_mlp_backward(grads[0], saved[0], product, weights, wanted, Autocast::saved(*ctx));
    variable_list all(gradients.begin(), gradients.end());
    all.emplace_back();  // keep_product
    return all;
  }
};

}  // namespace

at::Tensor residual_mlp(const at::Tensor& x, const MlpWeights& weights, bool keep_product) {
  const variable_list tensors{x,
                              weights.norm.weight,
                              weights.norm.bias,
                              weights.expand.weight,
                              weights.expand.bias,
                              weights.contract.weight,
                              weights.contract.bias};
  return ResidualMlp::apply(at::TensorList(tensors), keep_product);
}

ResidualMlpGradients residual_mlp_backward(const at::Tensor& grad, const at::Tensor& x,
                                           const at::Tensor& product, const MlpWeights& weights,
                                           const std::array<bool, 7>& wanted, const Autocast& autocast) {
  const RecomputedNorm norm(x, weights.norm, {wanted[0], wanted[1], wanted[2]}, autocast);
  const at::Tensor normed = norm.output();
  const bool below_gelu = norm.wants_any() || wanted[3] || wanted[4];
  at::Tensor expanded = product;
  if (!expanded.defined()) {
    const AutocastGuard as_forward(autocast);
    expanded = functional::linear(normed, weights.expand.weight, weights.expand.bias);
  }
  ResidualMlpGradients gradients;
  at::Tensor activated = at::gelu(expanded);
  const at::Tensor of_last = grad.to(activated.scalar_type());
  const auto last = linear_backward(of_last, activated, weights.contract,
                                    {.x = false, .weight = wanted[5], .bias = wanted[6]});
  activated.reset();
  gradients[5] = last.weight;
  gradients[6] = last.bias;
  if (below_gelu) {
    at::Tensor of_expanded =
        linear_backward(of_last, {}, weights.contract, {.x = true, .weight = false, .bias = false}).x;
    at::gelu_backward_out(of_expanded, of_expanded, expanded);
    expanded.reset();
    const auto first = linear_backward(of_expanded, normed, weights.expand,
                                       {.x = norm.wants_any(), .weight = wanted[3], .bias = wanted[4]});
    gradients[3] = first.weight;
    gradients[4] = first.bias;
    of_expanded.reset();
    if (norm.wants_any()) {
      const auto of_norm = norm.backward(first.x);
      std::copy(of_norm.begin(), of_norm.end(), gradients.begin());
    }
  }
  if (wanted[0]) {
    gradients[0] = gradients[0].defined() ? grad + gradients[0] : grad;
  }
  return gradients;
}

}  // namespace torchwhisper::nn
