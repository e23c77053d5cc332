#include "csrc/nn/checkpoint.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "csrc/nn/functional.h"
#include "csrc/nn/norm_linear.h"
#include "csrc/nn/replay.h"
#include "csrc/nn/residual_mlp.h"

namespace torchwhisper::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::size_t kMlpTensors = 6;

at::Tensor linear(const at::Tensor& x, const Affine& layer) {
  return functional::linear(x, layer.weight, layer.bias);
}

std::vector<at::Tensor> project(const at::Tensor& x, const Affine& norm, const std::vector<Affine>& layers,
                                bool keep_norm) {
  if (!keep_norm) {
    return norm_linear(x, norm, layers);
  }
  const at::Tensor normed = functional::layer_norm_for_training(x, norm.weight, norm.bias);
  std::vector<at::Tensor> products;
  products.reserve(layers.size());
  for (const Affine& layer : layers) {
    products.push_back(linear(normed, layer));
  }
  return products;
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t n_head,
                  bool causal) {
  return functional::merge_heads(functional::attention(functional::split_heads(q, n_head),
                                                       functional::split_heads(k, n_head),
                                                       functional::split_heads(v, n_head), causal));
}

// The block up to its feed-forward half.
at::Tensor attention_half(const at::Tensor& input, const at::Tensor& features, const BlockWeights& weights,
                          std::int64_t n_head, bool keep_norm) {
  const AttentionWeights& self = weights.attn;
  const auto own = project(input, self.norm, {self.query, self.key, self.value}, keep_norm);
  const bool causal = features.defined() && input.size(1) > 1;
  at::Tensor x = input + linear(attend(own[0], own[1], own[2], n_head, causal), self.out);
  if (weights.cross_attn.has_value()) {
    const AttentionWeights& cross = *weights.cross_attn;
    // All rows of one recording are the queries of one attention.
    const at::Tensor q =
        project(x, cross.norm, {cross.query}, keep_norm)[0].reshape({features.size(0), -1, features.size(2)});
    const at::Tensor k = linear(features, cross.key);
    const at::Tensor v = linear(features, cross.value);
    const at::Tensor attended = attend(q, k, v, n_head, /*causal=*/false);
    x = x + linear(attended.reshape(x.sizes()), cross.out);
  }
  return x;
}

at::Tensor plain_mlp(const at::Tensor& x, const MlpWeights& weights) {
  const at::Tensor normed = functional::layer_norm_for_training(x, weights.norm.weight, weights.norm.bias);
  return x + linear(at::gelu(linear(normed, weights.expand)), weights.contract);
}

// [batch, 1, 1]: 0 for the rows that skip the block.
at::Tensor draw_depth(const at::Tensor& x, double probability) {
  return at::empty({x.size(0), 1, 1}, x.options()).bernoulli_(1.0 - probability).div_(1.0 - probability);
}

at::Tensor whole_block(const at::Tensor& x, const at::Tensor& features, const BlockWeights& weights,
                       std::int64_t n_head, const BlockTraining& training) {
  const CheckpointPolicy policy = training.policy;
  at::Tensor depth;
  if (training.stochastic_depth > 0) {
    depth = draw_depth(x, training.stochastic_depth);
  }
  const at::Tensor half =
      attention_half(x, features, weights, n_head, /*keep_norm=*/policy == CheckpointPolicy::kNone);
  const at::Tensor y = policy == CheckpointPolicy::kNone
                           ? plain_mlp(half, weights.mlp)
                           : residual_mlp(half, weights.mlp,
                                          /*keep_product=*/policy == CheckpointPolicy::kSelective);
  return depth.defined() ? x + depth * (y - x) : y;
}

/// The inputs of one recomputation, cut off from the graph that the forward pass recorded.
struct Leaves {
  Leaves(const variable_list& saved, const AutogradContext& context) {
    for (std::size_t i = 0; i < saved.size(); ++i) {
      wanted.push_back(context.needs_input_grad(i));
      tensors.push_back(saved[i].detach());
      tensors.back().set_requires_grad(wanted.back());
    }
  }

  /// Gradients of the first `count` inputs, undefined where not wanted.
  variable_list gradients(const at::Tensor& output, const at::Tensor& grad, std::size_t count) const {
    variable_list inputs;
    for (std::size_t i = 0; i < count; ++i) {
      if (wanted[i]) {
        inputs.push_back(tensors[i]);
      }
    }
    variable_list all(tensors.size());
    if (inputs.empty()) {
      return all;
    }
    const variable_list found = torch::autograd::grad({output}, inputs, {grad});
    for (std::size_t i = 0, next = 0; i < count; ++i) {
      if (wanted[i]) {
        all[i] = found[next++];
      }
    }
    return all;
  }

  variable_list tensors;
  std::vector<bool> wanted;
};

/// Keeps the inputs of a block. Backward runs its attention half again with gradients and goes through the
/// feed-forward half by hand, which spares its last product.
struct CheckpointedBlock : torch::autograd::Function<CheckpointedBlock> {
  // tensors: x, the features if there are any, the weights.
  static at::Tensor forward(AutogradContext* ctx, at::TensorList tensors, bool cross, std::int64_t n_head,
                            double stochastic_depth) {
    const at::Tensor& x = tensors[0];
    const auto autocast = Autocast::current(x.device().type());
    const AutocastGuard uncached(autocast);
    ctx->save_for_backward(tensors.vec());
    ctx->saved_data["cross"] = cross;
    ctx->saved_data["n_head"] = n_head;
    ctx->saved_data["stochastic_depth"] = stochastic_depth;
    if (stochastic_depth > 0) {
      ctx->saved_data["random_state"] = random_state(x.device());
    }
    autocast.save(*ctx);
    return whole_block(x, cross ? tensors[1] : at::Tensor(), weights_of(tensors, cross), n_head,
                       {CheckpointPolicy::kNone, 1, stochastic_depth});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    refuse_double_backward();
    const Leaves leaves(ctx->get_saved_variables(), *ctx);
    const Autocast autocast = Autocast::saved(*ctx);
    const bool cross = ctx->saved_data["cross"].toBool();
    const at::Tensor& x = leaves.tensors[0];
    const BlockWeights weights = weights_of(leaves.tensors, cross);
    const at::Tensor depth = drawn_depth(*ctx, x);
    const at::Tensor of_block = depth.defined() ? depth * grads[0] : grads[0];

    at::Tensor half;
    {
      const AutocastGuard as_forward(autocast);
      const at::AutoGradMode record(true);
      half = attention_half(x, cross ? leaves.tensors[1] : at::Tensor(), weights,
                            ctx->saved_data["n_head"].toInt(), /*keep_norm=*/false);
    }
    const std::size_t first_of_mlp = leaves.tensors.size() - kMlpTensors;
    std::array<bool, kMlpTensors + 1> wanted{half.requires_grad()};
    std::copy(leaves.wanted.begin() + static_cast<std::ptrdiff_t>(first_of_mlp), leaves.wanted.end(),
              wanted.begin() + 1);
    const auto of_mlp = residual_mlp_backward(of_block, half.detach(), {}, weights.mlp, wanted, autocast);
    variable_list gradients = leaves.gradients(half, of_mlp[0], first_of_mlp);
    std::copy(of_mlp.begin() + 1, of_mlp.end(),
              gradients.begin() + static_cast<std::ptrdiff_t>(first_of_mlp));
    if (depth.defined() && leaves.wanted[0]) {
      gradients[0] = gradients[0] + (grads[0] - of_block);
    }
    gradients.resize(gradients.size() + 3);  // cross, n_head, stochastic_depth
    return gradients;
  }

 private:
  static BlockWeights weights_of(at::TensorList tensors, bool cross) {
    return BlockWeights::unflatten(tensors.slice(cross ? 2 : 1), cross);
  }

  static at::Tensor drawn_depth(AutogradContext& ctx, const at::Tensor& x) {
    const double probability = ctx.saved_data["stochastic_depth"].toDouble();
    if (probability == 0) {
      return {};
    }
    const RandomStateGuard as_forward(x.device(), ctx.saved_data["random_state"].toTensor());
    return draw_depth(x, probability);
  }
};

}  // namespace

CheckpointPolicy to_checkpoint_policy(const std::string& name) {
  if (name.empty()) {
    return CheckpointPolicy::kNone;
  }
  if (name == "selective") {
    return CheckpointPolicy::kSelective;
  }
  if (name == "mlp") {
    return CheckpointPolicy::kMlp;
  }
  TORCH_CHECK_VALUE(name == "block", "the checkpointing policy is '", name,
                    "', expected 'selective', 'mlp' or 'block'");
  return CheckpointPolicy::kBlock;
}

at::Tensor train_block(const at::Tensor& x, const at::Tensor& features, const BlockWeights& weights,
                       std::int64_t n_head, const BlockTraining& training) {
  if (training.policy != CheckpointPolicy::kBlock) {
    return whole_block(x, features, weights, n_head, training);
  }
  variable_list tensors{x};
  if (features.defined()) {
    tensors.push_back(features);
  }
  const auto flat = weights.flatten();
  tensors.insert(tensors.end(), flat.begin(), flat.end());
  return CheckpointedBlock::apply(at::TensorList(tensors), features.defined(), n_head,
                                  training.stochastic_depth);
}

}  // namespace torchwhisper::nn
