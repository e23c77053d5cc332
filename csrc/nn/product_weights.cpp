#include "csrc/nn/product_weights.h"

#include <ATen/ATen.h>

#include <vector>

namespace torchwhisper::nn {
namespace {

template <typename Weights, typename Visit>
void visit(Weights& weights, const Visit& each) {
  const auto layer = [&](auto& affine) {
    each(affine.weight);
    each(affine.bias);
  };
  const auto attention = [&](auto& part) {
    layer(part.of_x);
    layer(part.of_features);
    layer(part.out);
  };
  attention(weights.attn);
  if (weights.cross_attn) {
    attention(*weights.cross_attn);
  }
  layer(weights.expand);
  layer(weights.contract);
}

/// Collects copies, which one kernel then makes together.
class Copies {
 public:
  explicit Copies(at::ScalarType dtype) : dtype_(dtype) {}

  Affine cast(const Affine& layer) { return {cast(layer.weight), cast(layer.bias)}; }

  // One below the other; a bias that is missing is 0.
  Affine join(const std::vector<const Affine*>& layers) {
    const std::int64_t n_out = layers[0]->weight.size(0);
    const std::int64_t n_in = layers[0]->weight.size(1);
    const auto n_layer = static_cast<std::int64_t>(layers.size());
    const auto options = layers[0]->weight.options().dtype(dtype_);
    Affine joint{at::empty({n_layer * n_out, n_in}, options), at::zeros({n_layer * n_out}, options)};
    for (std::int64_t i = 0; i < n_layer; ++i) {
      const Affine& layer = *layers[static_cast<std::size_t>(i)];
      add(layer.weight, joint.weight.narrow(0, i * n_out, n_out));
      if (layer.bias.defined()) {
        add(layer.bias, joint.bias.narrow(0, i * n_out, n_out));
      }
    }
    return joint;
  }

  void make() {
    if (!to_.empty()) {
      at::_foreach_copy_(to_, from_);
    }
  }

 private:
  at::Tensor cast(const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.scalar_type() == dtype_) {
      return tensor;
    }
    at::Tensor made = at::empty_like(tensor, tensor.options().dtype(dtype_));
    add(tensor, made);
    return made;
  }

  void add(const at::Tensor& from, const at::Tensor& to) {
    from_.push_back(from.detach());
    to_.push_back(to);
  }

  at::ScalarType dtype_;
  std::vector<at::Tensor> from_;
  std::vector<at::Tensor> to_;
};

}  // namespace

std::vector<at::Tensor> ProductWeights::flatten() const {
  std::vector<at::Tensor> tensors;
  visit(*this, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

ProductWeights ProductWeights::unflatten(at::TensorList tensors, bool cross_attention) {
  ProductWeights weights;
  if (cross_attention) {
    weights.cross_attn.emplace();
  }
  std::size_t next = 0;
  visit(weights, [&](at::Tensor& tensor) { tensor = tensors[next++]; });
  TORCH_INTERNAL_ASSERT(next == tensors.size());
  return weights;
}

ProductWeights product_weights(const BlockWeights& parameters, at::ScalarType dtype) {
  Copies copies(dtype);
  ProductWeights made;
  const AttentionWeights& self = parameters.attn;
  made.attn = {copies.join({&self.query, &self.key, &self.value}), {}, copies.cast(self.out)};
  if (parameters.cross_attn) {
    const AttentionWeights& cross = *parameters.cross_attn;
    made.cross_attn = {copies.cast(cross.query), copies.join({&cross.key, &cross.value}),
                       copies.cast(cross.out)};
  }
  made.expand = copies.cast(parameters.mlp.expand);
  made.contract = copies.cast(parameters.mlp.contract);
  copies.make();
  return made;
}

}  // namespace torchwhisper::nn
