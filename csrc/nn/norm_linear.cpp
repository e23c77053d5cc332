#include "csrc/nn/norm_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstddef>

#include "csrc/nn/functional.h"
#include "csrc/nn/linear_backward.h"
#include "csrc/nn/recomputed_norm.h"
#include "csrc/nn/replay.h"

namespace torchwhisper::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The inputs are x, the two of the normalisation, and per layer a weight and, if it has one, a bias.
constexpr std::size_t kFirstLayer = 3;

std::vector<Affine> to_layers(at::TensorList tensors, const std::vector<bool>& has_bias) {
  std::vector<Affine> layers;
  std::size_t next = kFirstLayer;
  for (const bool with_bias : has_bias) {
    const at::Tensor& weight = tensors[next++];
    layers.push_back({weight, with_bias ? tensors[next++] : at::Tensor()});
  }
  return layers;
}

struct NormLinear : torch::autograd::Function<NormLinear> {
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors,
                               const std::vector<bool>& has_bias) {
    const auto autocast = Autocast::current(tensors[0].device().type());
    const AutocastGuard uncached(autocast);
    const at::Tensor normed = functional::layer_norm_for_training(tensors[0], tensors[1], tensors[2]);
    variable_list outputs;
    for (const Affine& layer : to_layers(tensors, has_bias)) {
      outputs.push_back(functional::linear(normed, layer.weight, layer.bias));
    }
    ctx->save_for_backward(tensors.vec());
    ctx->saved_data["has_bias"] = has_bias;
    autocast.save(*ctx);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    refuse_double_backward();
    const variable_list tensors = ctx->get_saved_variables();
    const std::vector<Affine> layers = to_layers(tensors, ctx->saved_data["has_bias"].toBoolList().vec());
    const RecomputedNorm norm(tensors[0], {tensors[1], tensors[2]},
                              {ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)},
                              Autocast::saved(*ctx));
    const at::Tensor normed = norm.output();

    variable_list gradients(tensors.size());
    at::Tensor of_normed;
    std::size_t next = tensors.size();
    // From the last layer to the first, as autograd would: the sum is then the same to the last bit.
    for (std::size_t i = layers.size(); i-- > 0;) {
      const bool with_bias = layers[i].bias.defined();
      next -= with_bias ? 2 : 1;
      auto of_layer = linear_backward(grads[i], normed, layers[i],
                                      {.x = norm.wants_any(),
                                       .weight = ctx->needs_input_grad(next),
                                       .bias = with_bias && ctx->needs_input_grad(next + 1)});
      gradients[next] = of_layer.weight;
      if (with_bias) {
        gradients[next + 1] = of_layer.bias;
      }
      if (norm.wants_any()) {
        const at::Tensor part = of_layer.x.to(normed.scalar_type());
        of_normed = of_normed.defined() ? of_normed.add_(part) : part;
      }
    }
    if (norm.wants_any()) {
      const auto of_norm = norm.backward(of_normed);
      std::copy(of_norm.begin(), of_norm.end(), gradients.begin());
    }
    gradients.emplace_back();  // has_bias
    return gradients;
  }
};

}  // namespace

std::vector<at::Tensor> norm_linear(const at::Tensor& x, const Affine& norm,
                                    const std::vector<Affine>& layers) {
  variable_list tensors{x, norm.weight, norm.bias};
  std::vector<bool> has_bias;
  for (const Affine& layer : layers) {
    tensors.push_back(layer.weight);
    has_bias.push_back(layer.bias.defined());
    if (layer.bias.defined()) {
      tensors.push_back(layer.bias);
    }
  }
  return NormLinear::apply(at::TensorList(tensors), has_bias);
}

}  // namespace torchwhisper::nn
