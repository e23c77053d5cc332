#include "csrc/nn/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "csrc/nn/block_backward.h"
#include "csrc/nn/recorded_block.h"
#include "csrc/nn/replay.h"

namespace torchwhisper::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// [batch, 1, 1]: 0 for the rows that skip the block.
at::Tensor draw_depth(const at::Tensor& x, double probability) {
  return at::empty({x.size(0), 1, 1}, x.options()).bernoulli_(1.0 - probability).div_(1.0 - probability);
}

at::Tensor at_depth(const at::Tensor& depth, const at::Tensor& x, const at::Tensor& y) {
  return depth.defined() ? x + depth * (y - x) : y;
}

// Leaves out what the policy computes again.
void forget(BlockTape& tape, CheckpointPolicy policy) {
  if (policy >= CheckpointPolicy::kSelective) {
    tape.self.norm = {};
    tape.cross.norm = {};
    tape.mlp.norm = {};
    tape.mlp.activated.reset();
  }
  if (policy >= CheckpointPolicy::kMlp) {
    tape.mlp.expanded.reset();
  }
}

/// Runs a block and keeps of it what the policy says. The inputs are x, the features if there are any, and
/// the weights; what is kept of the way follows them.
struct TrainedBlock : torch::autograd::Function<TrainedBlock> {
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, bool cross, std::int64_t n_head,
                            std::int64_t policy_index, double stochastic_depth) {
    const at::Tensor& x = inputs[0];
    const auto policy = static_cast<CheckpointPolicy>(policy_index);
    const auto autocast = Autocast::current(x.device().type());
    const AutocastGuard off(autocast.off());
    const at::AutoDispatchBelowADInplaceOrView by_hand;
    autocast.save(*ctx);
    ctx->saved_data["cross"] = cross;
    ctx->saved_data["n_head"] = n_head;
    ctx->saved_data["policy"] = policy_index;
    ctx->saved_data["stochastic_depth"] = stochastic_depth;
    at::Tensor depth;
    if (stochastic_depth > 0) {
      ctx->saved_data["random_state"] = random_state(x.device());
      depth = draw_depth(x, stochastic_depth);
    }
    const BlockCall call = call_of(inputs, cross, n_head, {}, autocast);
    BlockTape tape = block_forward(call);
    at::Tensor y = at_depth(depth, x, block_output(call, tape));
    variable_list saved = inputs.vec();
    if (policy != CheckpointPolicy::kBlock) {
      forget(tape, policy);
      ctx->saved_data["kernels"] =
          std::vector<std::int64_t>{static_cast<std::int64_t>(tape.self.attended.kernel),
                                    static_cast<std::int64_t>(tape.cross.attended.kernel)};
      const auto kept = tape.flatten();
      saved.insert(saved.end(), kept.begin(), kept.end());
    }
    if (policy == CheckpointPolicy::kNone && autocast.enabled) {
      const auto cast = call.products.flatten();
      saved.insert(saved.end(), cast.begin(), cast.end());
    }
    ctx->save_for_backward(std::move(saved));
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const bool cross = ctx->saved_data["cross"].toBool();
    const std::size_t n_inputs = BlockWeights::count(cross) + (cross ? 2 : 1);
    const at::TensorList inputs = at::TensorList(saved).slice(0, n_inputs);
    const at::TensorList kept = at::TensorList(saved).slice(n_inputs);
    if (at::GradMode::is_enabled()) {  // with create_graph=True only
      return backward_by_autograd(*ctx, inputs, grads[0]);
    }
    const auto autocast = Autocast::saved(*ctx);
    const AutocastGuard off(autocast.off());
    const at::AutoDispatchBelowADInplaceOrView by_hand;
    const std::size_t n_tape = kept.empty() ? 0 : BlockTape().flatten().size();
    const BlockCall call =
        call_of(leaves(inputs, *ctx), cross, ctx->saved_data["n_head"].toInt(), kept.slice(n_tape), autocast);
    const at::Tensor depth = drawn_depth(*ctx, call.x);
    const at::Tensor of_block = depth.defined() ? depth * grads[0] : grads[0];
    BlockTape tape = kept.empty() ? block_forward(call) : kept_tape(*ctx, kept.slice(0, n_tape));
    BlockGradients found = block_backward(of_block, call, std::move(tape));
    if (depth.defined() && found.x.defined()) {
      found.x = found.x + (grads[0] - of_block);
    }
    variable_list all{found.x};
    if (cross) {
      all.push_back(found.features);
    }
    const auto of_weights = found.weights.flatten();
    all.insert(all.end(), of_weights.begin(), of_weights.end());
    return padded(std::move(all));
  }

 private:
  // cast: the weights as products read them, if they were kept.
  static BlockCall call_of(at::TensorList inputs, bool cross, std::int64_t n_head, at::TensorList cast,
                           const Autocast& autocast) {
    const BlockWeights weights = BlockWeights::unflatten(inputs.slice(cross ? 2 : 1), cross);
    const at::ScalarType dtype = autocast.product_type(inputs[0].scalar_type());
    return {inputs[0], cross ? inputs[1] : at::Tensor(), weights,
            cast.empty() ? product_weights(weights, dtype) : ProductWeights::unflatten(cast, cross), n_head};
  }

  // The inputs cut off from the graph of the forward pass; those whose gradients are wanted require them.
  static variable_list leaves(at::TensorList inputs, const AutogradContext& ctx) {
    variable_list cut;
    cut.reserve(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      cut.push_back(inputs[i].detach());
      cut.back().set_requires_grad(ctx.needs_input_grad(i));
    }
    return cut;
  }

  static BlockTape kept_tape(AutogradContext& ctx, at::TensorList kept) {
    const auto kernels = ctx.saved_data["kernels"].toIntVector();
    return BlockTape::unflatten(kept, static_cast<at::SDPBackend>(kernels[0]),
                                static_cast<at::SDPBackend>(kernels[1]));
  }

  static at::Tensor drawn_depth(AutogradContext& ctx, const at::Tensor& x) {
    const double probability = ctx.saved_data["stochastic_depth"].toDouble();
    if (probability == 0) {
      return {};
    }
    const RandomStateGuard as_forward(x.device(), ctx.saved_data["random_state"].toTensor());
    return draw_depth(x, probability);
  }

  // Gradients that have a graph of their own. Only without checkpointing, where the user may expect them.
  static variable_list backward_by_autograd(AutogradContext& ctx, at::TensorList inputs,
                                            const at::Tensor& grad) {
    if (ctx.saved_data["policy"].toInt() != static_cast<std::int64_t>(CheckpointPolicy::kNone)) {
      refuse_double_backward();
    }
    const bool cross = ctx.saved_data["cross"].toBool();
    const at::Tensor depth = drawn_depth(ctx, inputs[0]);
    at::Tensor y;
    {
      const AutocastGuard as_forward(Autocast::saved(ctx));
      y = at_depth(depth, inputs[0],
                   recorded_block(inputs[0], cross ? inputs[1] : at::Tensor(),
                                  BlockWeights::unflatten(inputs.slice(cross ? 2 : 1), cross),
                                  ctx.saved_data["n_head"].toInt()));
    }
    variable_list wanted;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (ctx.needs_input_grad(i)) {
        wanted.push_back(inputs[i]);
      }
    }
    const variable_list found =
        torch::autograd::grad({y}, wanted, {grad}, /*retain_graph=*/true, /*create_graph=*/true);
    variable_list all(inputs.size());
    for (std::size_t i = 0, next = 0; i < inputs.size(); ++i) {
      if (ctx.needs_input_grad(i)) {
        all[i] = found[next++];
      }
    }
    return padded(std::move(all));
  }

  static variable_list padded(variable_list gradients) {
    gradients.resize(gradients.size() + 4);  // cross, n_head, policy, stochastic_depth
    return gradients;
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
  variable_list inputs{x};
  if (features.defined()) {
    inputs.push_back(features);
  }
  const auto flat = weights.flatten();
  inputs.insert(inputs.end(), flat.begin(), flat.end());
  return TrainedBlock::apply(at::TensorList(inputs), features.defined(), n_head,
                             static_cast<std::int64_t>(training.policy), training.stochastic_depth);
}

}  // namespace torchwhisper::nn
