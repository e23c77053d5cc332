#include "csrc/nn/block_backward.h"

#include <ATen/ATen.h>

#include <utility>

namespace torchwhisper::nn {
namespace {

const at::Tensor kNone;

AttentionCall self_call(const BlockCall& call) {
  const bool causal = call.features.defined() && call.x.size(1) > 1;
  return {call.x, kNone, call.parameters.attn, call.products.attn, call.n_head, causal};
}

AttentionCall cross_call(const BlockCall& call, const BlockTape& tape) {
  const auto& parameters = call.parameters.cross_attn;
  const auto& products = call.products.cross_attn;
  TORCH_INTERNAL_ASSERT(parameters.has_value() && products.has_value());
  return {tape.after_self, call.features, *parameters, *products, call.n_head, /*causal=*/false};
}

MlpCall mlp_call(const BlockCall& call, const BlockTape& tape) {
  return {call.features.defined() ? tape.after_cross : tape.after_self, call.parameters.mlp,
          call.products.expand, call.products.contract};
}

template <typename Tape, typename Visit>
void visit(Tape& tape, const Visit& each) {
  const auto norm = [&](auto& part) {
    each(part.out);
    each(part.mean);
    each(part.rstd);
  };
  const auto attention = [&](auto& part) {
    norm(part.norm);
    each(part.q);
    each(part.k);
    each(part.v);
    each(part.attended.out);
    each(part.attended.logsumexp);
    each(part.attended.seed);
    each(part.attended.offset);
  };
  attention(tape.self);
  each(tape.after_self);
  attention(tape.cross);
  each(tape.after_cross);
  norm(tape.mlp.norm);
  each(tape.mlp.expanded);
  each(tape.mlp.activated);
}

bool requires_any(const AttentionWeights& weights) {
  const auto any = [](const Affine& layer) {
    return layer.weight.requires_grad() || (layer.bias.defined() && layer.bias.requires_grad());
  };
  return any(weights.norm) || any(weights.query) || any(weights.key) || any(weights.value) ||
         any(weights.out);
}

}  // namespace

std::vector<at::Tensor> BlockTape::flatten() const {
  std::vector<at::Tensor> tensors;
  visit(*this, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

BlockTape BlockTape::unflatten(at::TensorList tensors, at::SDPBackend self_kernel,
                               at::SDPBackend cross_kernel) {
  BlockTape tape;
  std::size_t next = 0;
  visit(tape, [&](at::Tensor& tensor) { tensor = tensors[next++]; });
  TORCH_INTERNAL_ASSERT(next == tensors.size());
  tape.self.attended.kernel = self_kernel;
  tape.cross.attended.kernel = cross_kernel;
  return tape;
}

BlockTape block_forward(const BlockCall& call) {
  BlockTape tape;
  tape.self = attention_forward(self_call(call));
  tape.after_self = attention_output(self_call(call), tape.self);
  if (call.features.defined()) {
    tape.cross = attention_forward(cross_call(call, tape));
    tape.after_cross = attention_output(cross_call(call, tape), tape.cross);
  }
  tape.mlp = mlp_forward(mlp_call(call, tape));
  return tape;
}

at::Tensor block_output(const BlockCall& call, const BlockTape& tape) {
  return mlp_output(mlp_call(call, tape), tape.mlp);
}

BlockGradients block_backward(const at::Tensor& grad, const BlockCall& call, BlockTape tape) {
  BlockGradients gradients;
  const bool wants_x = call.x.requires_grad();
  const bool wants_features = call.features.defined() && call.features.requires_grad();
  const bool wants_after_self = wants_x || requires_any(call.parameters.attn);
  bool wants_half = wants_after_self;
  if (const auto& cross = call.parameters.cross_attn; cross.has_value()) {
    wants_half = wants_half || wants_features || requires_any(*cross);
  }
  MlpTape mlp = std::move(tape.mlp);
  tape.mlp = {};
  auto of_mlp = mlp_backward(grad, mlp_call(call, tape), std::move(mlp), wants_half);
  gradients.weights.mlp = std::move(of_mlp.weights);
  at::Tensor of_half = std::move(of_mlp.x);
  if (call.features.defined()) {
    gradients.weights.cross_attn.emplace();
    if (wants_half) {
      AttentionTape cross = std::move(tape.cross);
      tape.cross = {};
      auto of_cross = attention_backward(of_half, cross_call(call, tape), std::move(cross), wants_after_self,
                                         wants_features);
      gradients.weights.cross_attn = std::move(of_cross.weights);
      gradients.features = std::move(of_cross.features);
      of_half = std::move(of_cross.x);
    }
  }
  if (wants_after_self) {
    auto of_self = attention_backward(of_half, self_call(call), std::move(tape.self), wants_x,
                                      /*wants_features=*/false);
    gradients.weights.attn = std::move(of_self.weights);
    gradients.x = std::move(of_self.x);
  }
  return gradients;
}

}  // namespace torchwhisper::nn
