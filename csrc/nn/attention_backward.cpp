#include "csrc/nn/attention_backward.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "csrc/nn/functional.h"
#include "csrc/nn/linear_backward.h"
#include "csrc/nn/residual.h"

namespace torchwhisper::nn {
namespace {

at::ScalarType product_type(const AttentionCall& call) { return call.products.out.weight.scalar_type(); }

bool attends_to_itself(const AttentionCall& call) { return !call.features.defined(); }

bool requires_any(const Affine& layer) {
  return layer.weight.requires_grad() || (layer.bias.defined() && layer.bias.requires_grad());
}

at::Tensor linear(const at::Tensor& x, const Affine& layer) {
  return at::linear(x, layer.weight, layer.bias);
}

// The gradients of heads as those of joined products: [row, n * n_state].
at::Tensor joint_rows(at::TensorList of_heads) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& one : of_heads) {
    parts.push_back(rows(functional::merge_heads(one)));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

// The gradients of the projections; returns that of the norm's output.
at::Tensor projections_backward(const std::array<at::Tensor, 3>& of_heads, const AttentionCall& call,
                                const at::Tensor& normed, bool wants_features,
                                AttentionGradients& gradients) {
  AttentionWeights& found = gradients.weights;
  const AttentionWeights& given = call.parameters;
  if (attends_to_itself(call)) {
    const at::Tensor of_all = joint_rows(of_heads);
    const auto each = joint_linear_backward(of_all, normed, {given.query, given.key, given.value});
    found.query = each[0];
    found.key = each[1];
    found.value = each[2];
    return input_gradient(of_all, call.products.of_x.weight, at::kFloat);
  }
  const at::Tensor of_q = joint_rows(of_heads[0]);
  const at::Tensor of_kv = joint_rows(at::TensorList(of_heads).slice(1));
  const at::Tensor features = call.features.to(product_type(call));
  const auto each = joint_linear_backward(of_kv, rows(features), {given.key, given.value});
  found.key = each[0];
  found.value = each[1];
  found.query = linear_backward(of_q, normed, given.query);
  if (wants_features) {
    gradients.features =
        input_gradient(of_kv, call.products.of_features.weight, product_type(call)).view(features.sizes());
  }
  return input_gradient(of_q, call.products.of_x.weight, at::kFloat);
}

}  // namespace

AttentionTape attention_forward(const AttentionCall& call) {
  AttentionTape tape;
  tape.norm = normalise(call.x, call.parameters.norm, product_type(call));
  const auto heads = [&](const at::Tensor& x) { return functional::split_heads(x, call.n_head); };
  const at::Tensor of_x = linear(tape.norm.out, call.products.of_x);
  if (attends_to_itself(call)) {
    const auto parts = of_x.chunk(3, -1);
    tape.q = heads(parts[0]);
    tape.k = heads(parts[1]);
    tape.v = heads(parts[2]);
  } else {
    const at::Tensor features = call.features.to(product_type(call));
    const auto parts = linear(features, call.products.of_features).chunk(2, -1);
    // All rows of one recording are the queries of one attention.
    tape.q = heads(of_x.view({features.size(0), -1, of_x.size(2)}));
    tape.k = heads(parts[0]);
    tape.v = heads(parts[1]);
  }
  tape.attended = attend(tape.q, tape.k, tape.v, call.causal);
  return tape;
}

at::Tensor attention_output(const AttentionCall& call, const AttentionTape& tape) {
  const at::Tensor merged = functional::merge_heads(tape.attended.out).view(call.x.sizes());
  return add_residual(linear(merged, call.products.out), call.x);
}

AttentionGradients attention_backward(const at::Tensor& grad, const AttentionCall& call, AttentionTape tape,
                                      bool wants_x, bool wants_features) {
  AttentionGradients gradients;
  const AttentionWeights& given = call.parameters;
  const at::Tensor of_out = rows(grad.to(product_type(call)));
  const at::Tensor merged = functional::merge_heads(tape.attended.out);
  gradients.weights.out = linear_backward(of_out, rows(merged), given.out);
  const bool wants_norm = wants_x || requires_any(given.norm);
  if (!wants_norm && !wants_features && !requires_any(given.query) && !requires_any(given.key) &&
      !requires_any(given.value)) {
    return gradients;
  }
  const at::Tensor of_merged = input_gradient(of_out, call.products.out.weight, product_type(call));
  const auto of_heads = attend_backward(functional::split_heads(of_merged.view(merged.sizes()), call.n_head),
                                        tape.q, tape.k, tape.v, tape.attended, call.causal);
  Normed norm = std::move(tape.norm);
  tape = {};
  if (!norm.out.defined()) {
    norm = normalise(call.x, given.norm, product_type(call));
  }
  const at::Tensor of_normed =
      projections_backward(of_heads, call, rows(norm.out), wants_features, gradients);
  if (wants_norm) {
    auto of_norm = layer_norm_backward(of_normed, call.x, norm, given.norm, wants_x);
    gradients.weights.norm = std::move(of_norm.weights);
    if (wants_x) {
      gradients.x = add_to_gradient(of_norm.x, grad);
    }
  }
  return gradients;
}

}  // namespace torchwhisper::nn
