#include "csrc/nn/block_weights.h"

#include <c10/util/Exception.h>

namespace torchwhisper::nn {
namespace {

template <typename Weights, typename Visit>
void visit(Weights& weights, const Visit& each) {
  const auto affine = [&](auto& layer) {
    each(layer.weight);
    each(layer.bias);
  };
  const auto attention = [&](auto& part) {
    affine(part.norm);
    affine(part.query);
    each(part.key.weight);
    affine(part.value);
    affine(part.out);
  };
  attention(weights.attn);
  if (weights.cross_attn) {
    attention(*weights.cross_attn);
  }
  affine(weights.mlp.norm);
  affine(weights.mlp.expand);
  affine(weights.mlp.contract);
}

}  // namespace

std::vector<at::Tensor> BlockWeights::flatten() const {
  std::vector<at::Tensor> tensors;
  visit(*this, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

std::size_t BlockWeights::count(bool cross_attention) {
  BlockWeights weights;
  if (cross_attention) {
    weights.cross_attn.emplace();
  }
  return weights.flatten().size();
}

BlockWeights BlockWeights::unflatten(at::TensorList tensors, bool cross_attention) {
  BlockWeights weights;
  if (cross_attention) {
    weights.cross_attn.emplace();
  }
  std::size_t next = 0;
  visit(weights, [&](at::Tensor& tensor) { tensor = tensors[next++]; });
  TORCH_INTERNAL_ASSERT(next == tensors.size());
  return weights;
}

}  // namespace torchwhisper::nn
