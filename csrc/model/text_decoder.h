#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/common/control.h"
#include "csrc/model/dimensions.h"
#include "csrc/nn/block.h"
#include "csrc/nn/checkpoint.h"
#include "csrc/nn/kv_cache.h"
#include "csrc/nn/layers.h"
#include "csrc/nn/vocabulary_head.h"
#include "csrc/nn/weights.h"

namespace torchwhisper::model {

/// Keys and values of a batch of audio features in every layer. Read-only once made, so that all decodes and
/// the alignment of one window can share it.
struct TORCHWHISPER_API AudioMemory {
  std::vector<nn::KeyValueCache> layers;
  at::ScalarType dtype;  // of the features

  std::int64_t n_audio() const { return layers.front().rows(); }
};

/// Everything that decoding keeps between two tokens. Owned by one decode, never shared.
struct TORCHWHISPER_API DecoderState {
  std::vector<nn::KeyValueCache> caches;  // per layer: keys and values of the tokens so far
  nn::StepBuffers buffers;

  std::int64_t length() const { return caches.front().length(); }
  void reorder(const std::vector<std::int64_t>& sources);
  void repeat_rows(std::int64_t times);
};

/// The text half of Whisper with upstream's names (whisper/model.py, TextDecoder).
struct TORCHWHISPER_API TextDecoderImpl : torch::nn::Module {
  TextDecoderImpl(const ModelDimensions& dims, const nn::Weights& given);

  /// tokens: [batch, time] int64, features: [batch, frame, n_state] -> logits [batch, time, n_vocab] float32.
  /// One of the two batches may be 1. Throws ValueError where the sizes do not fit or time exceeds
  /// n_text_ctx.
  at::Tensor forward(const at::Tensor& tokens, const at::Tensor& features,
                     common::Control& control = common::unstoppable(),
                     const nn::BlockTraining& training = {});

  /// The same up to the last normalisation: the hidden states [batch, time, n_state].
  at::Tensor hidden(const at::Tensor& tokens, const at::Tensor& features,
                    common::Control& control = common::unstoppable(), const nn::BlockTraining& training = {});

  struct Aligned {
    at::Tensor hidden;  // [time, n_state]
    at::Tensor scores;  // [alignment head, time, frame] float32: cross-attention before the softmax
  };

  /// hidden() for one sequence, with explicit attention, keeping the scores of `heads`: pairs (layer, head).
  /// No gradients.
  Aligned forward_with_scores(const at::Tensor& tokens, const AudioMemory& memory,
                              const std::vector<std::pair<std::int64_t, std::int64_t>>& heads,
                              common::Control& control);

  /// features: [n_audio, frame, n_state]. No gradients, as everything below that takes a memory.
  AudioMemory remember(const at::Tensor& features, common::Control& control = common::unstoppable());

  /// The state before the first token of one sequence per recording.
  DecoderState start(const AudioMemory& memory);

  /// Runs the next tokens, [row, new] int64, and returns their hidden states [row, new, n_state].
  at::Tensor advance(const at::Tensor& tokens, const AudioMemory& memory, DecoderState& state,
                     common::Control& control = common::unstoppable());

  /// The same for one token of every row -> [row, n_state], faster.
  at::Tensor advance_by_one(const std::vector<std::int64_t>& tokens, const AudioMemory& memory,
                            DecoderState& state);

  /// hidden: [..., n_state] -> logits [..., n_vocab] float32, through the tied token embedding.
  at::Tensor project(const at::Tensor& hidden);

  /// The prepared head for hidden states of this type, or null.
  const nn::VocabularyHead* prepared_head(const at::Tensor& hidden) const;

  void prepare(nn::Precision precision, nn::WeightArena& arena,
               common::Control& control = common::unstoppable());

  at::Tensor positional_embedding;  // [n_text_ctx, n_text_state]
  at::Tensor token_embedding;       // [n_vocab, n_text_state], the parameter "token_embedding.weight"
  std::vector<nn::ResidualAttentionBlock> blocks;
  nn::LayerNorm ln{nullptr};
  at::Tensor mask;  // [n_text_ctx, n_text_ctx]; derived, in no state_dict

 private:
  std::vector<std::vector<std::int64_t>> heads_of_layers(
      const std::vector<std::pair<std::int64_t, std::int64_t>>& heads) const;
  bool steps(const DecoderState& state) const;
  at::Tensor step(const at::Tensor& x, const AudioMemory& memory, DecoderState& state);
  void check_length(std::int64_t n_token) const;
  at::Tensor embed(const at::Tensor& tokens, std::int64_t offset, at::ScalarType dtype);

  std::unique_ptr<const nn::VocabularyHead> head_;
  bool shortens_caches_ = false;  // whether keys and values of tokens are kept in bfloat16
};
TORCH_MODULE(TextDecoder);

}  // namespace torchwhisper::model
