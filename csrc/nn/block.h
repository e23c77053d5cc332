#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/nn/attention.h"
#include "csrc/nn/block_weights.h"
#include "csrc/nn/checkpoint.h"
#include "csrc/nn/layers.h"
#include "csrc/nn/weights.h"

namespace torchwhisper::nn {

/// Linear, GELU (exact), Linear under upstream's keys "0" and "2".
struct TORCHWHISPER_API MlpImpl : torch::nn::Module {
  MlpImpl(const Weights& given, std::int64_t n_state);

  at::Tensor forward(const at::Tensor& x);                                  // x: [..., n_state]
  at::Tensor forward_add(const at::Tensor& x, const at::Tensor& residual);  // residual + forward(x)
  void prepare(Precision precision, Rows rows, WeightArena& arena);

  Linear expand{nullptr};    // n_state -> 4 n_state
  Linear contract{nullptr};  // 4 n_state -> n_state
};
TORCH_MODULE(Mlp);

/// One transformer layer with upstream's names (whisper/model.py, ResidualAttentionBlock). The encoder's
/// blocks have no cross_attn.
struct TORCHWHISPER_API ResidualAttentionBlockImpl : torch::nn::Module {
  ResidualAttentionBlockImpl(const Weights& given, std::int64_t n_state, std::int64_t n_head,
                             bool cross_attention);

  /// An encoder block. x: [batch, frame, n_state].
  at::Tensor encode(const at::Tensor& x);

  /// A decoder block over whole sequences. x: [batch, time, n_state], features: [batch, frame, n_state].
  at::Tensor decode(const at::Tensor& x, const at::Tensor& features);

  /// A decoder block over the next tokens of [batch * group] sequences; `memory` holds the audio of `batch`
  /// recordings.
  at::Tensor decode_cached(const at::Tensor& x, KeyValueCache& cache, const KeyValueCache& memory);

  /// decode_cached() for one new token of every sequence, on plain rows x: [rows][n_state], which become the
  /// result. Needs takes_rows() and caches in panels.
  void step(float* x, KeyValueCache& cache, const KeyValueCache& memory, StepBuffers& buffers) const;
  bool takes_rows() const;

  /// decode() with explicit attention; returns the scores of some heads of the cross-attention as well.
  MultiHeadAttentionImpl::Scored decode_with_scores(const at::Tensor& x, const KeyValueCache& memory,
                                                    const at::Tensor& mask,
                                                    const std::vector<std::int64_t>& heads);

  /// encode(), or decode() where the block has cross-attention, with activation checkpointing and stochastic
  /// depth as `training` says.
  at::Tensor forward_training(const at::Tensor& x, const at::Tensor& features, const BlockTraining& training);

  /// The parameters, not copied.
  BlockWeights weights() const;

  void prepare(Precision precision, WeightArena& arena);

  MultiHeadAttention attn{nullptr};
  LayerNorm attn_ln{nullptr};
  MultiHeadAttention cross_attn{nullptr};
  LayerNorm cross_attn_ln{nullptr};
  Mlp mlp{nullptr};
  LayerNorm mlp_ln{nullptr};
};
TORCH_MODULE(ResidualAttentionBlock);

}  // namespace torchwhisper::nn
