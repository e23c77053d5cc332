#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "csrc/common/api.h"
#include "csrc/nn/block_weights.h"

/// Residual blocks in training: a backward pass by hand, and activation checkpointing: what a block keeps for
/// it and what it computes again.
namespace torchwhisper::nn {

/// Each policy keeps less than the one before it and computes more again.
enum class CheckpointPolicy : std::uint8_t {
  kNone,       // keeps everything
  kSelective,  // computes the normalised inputs and the output of GELU again
  kMlp,        // and the first product of the feed-forward half
  kBlock,      // keeps the input of the block only
};

/// "selective", "mlp", "block", or "" for none. Throws ValueError for any other name.
TORCHWHISPER_API CheckpointPolicy to_checkpoint_policy(const std::string& name);

/// How the blocks of a model run while gradients are recorded.
struct BlockTraining {
  CheckpointPolicy policy = CheckpointPolicy::kNone;
  std::int64_t every = 1;         // the policy holds for each `every`-th block, from the first on
  double stochastic_depth = 0.0;  // probability that a block is skipped for a row of the batch

  bool changes_blocks() const { return policy != CheckpointPolicy::kNone || stochastic_depth > 0; }

  /// The same for one block: `every` is 1.
  BlockTraining of_block(std::int64_t index) const {
    return {index % every == 0 ? policy : CheckpointPolicy::kNone, 1, stochastic_depth};
  }
};

/// A residual block on given tensors, with gradients. x: [batch, time, n_state]; features: [batch, frame,
/// n_state] for a block with cross-attention, which is causal then, undefined for one without.
///
/// With stochastic depth y = x + m (block(x) - x), where m is 0 or 1 / (1 - probability) for each row, drawn
/// from the default generator of the device; a block that is computed again draws the same.
///
/// Under create_graph=True kNone goes through autograd, and all other policies throw RuntimeError.
TORCHWHISPER_API at::Tensor train_block(const at::Tensor& x, const at::Tensor& features,
                                        const BlockWeights& weights, std::int64_t n_head,
                                        const BlockTraining& training);

}  // namespace torchwhisper::nn
