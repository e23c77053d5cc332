#include "csrc/nn/mlp_backward.h"

#include <ATen/ATen.h>

#include <utility>

#include "csrc/nn/linear_backward.h"
#include "csrc/nn/residual.h"

namespace torchwhisper::nn {
namespace {

at::ScalarType product_type(const MlpCall& call) { return call.expand.weight.scalar_type(); }

void complete(MlpTape& tape, const MlpCall& call) {
  if (!tape.norm.out.defined()) {
    tape.norm = normalise(call.x, call.parameters.norm, product_type(call));
  }
  if (!tape.expanded.defined()) {
    tape.expanded = at::linear(tape.norm.out, call.expand.weight, call.expand.bias);
  }
  if (!tape.activated.defined()) {
    tape.activated = at::gelu(tape.expanded);
  }
}

}  // namespace

MlpTape mlp_forward(const MlpCall& call) {
  MlpTape tape;
  complete(tape, call);
  return tape;
}

at::Tensor mlp_output(const MlpCall& call, const MlpTape& tape) {
  return add_residual(at::linear(tape.activated, call.contract.weight, call.contract.bias), call.x);
}

MlpGradients mlp_backward(const at::Tensor& grad, const MlpCall& call, MlpTape tape, bool wants_x) {
  complete(tape, call);
  MlpGradients gradients;
  const Affine& norm = call.parameters.norm;
  const Affine& expand = call.parameters.expand;
  const bool wants_norm = wants_x || norm.weight.requires_grad() || norm.bias.requires_grad();
  const at::Tensor of_y = rows(grad.to(product_type(call)));
  gradients.weights.contract = linear_backward(of_y, rows(tape.activated), call.parameters.contract);
  tape.activated.reset();
  if (!wants_norm && !expand.weight.requires_grad() && !expand.bias.requires_grad()) {
    return gradients;
  }
  at::Tensor of_expanded = input_gradient(of_y, call.contract.weight, product_type(call));
  at::gelu_backward_out(of_expanded, of_expanded, rows(tape.expanded));
  tape.expanded.reset();
  gradients.weights.expand = linear_backward(of_expanded, rows(tape.norm.out), expand);
  if (wants_norm) {
    const at::Tensor of_normed = input_gradient(of_expanded, call.expand.weight, at::kFloat);
    of_expanded.reset();
    auto of_norm = layer_norm_backward(of_normed, call.x, tape.norm, norm, wants_x);
    gradients.weights.norm = std::move(of_norm.weights);
    if (wants_x) {
      gradients.x = add_to_gradient(of_norm.x, grad);
    }
  }
  return gradients;
}

}  // namespace torchwhisper::nn
