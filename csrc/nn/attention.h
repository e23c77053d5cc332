#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/nn/kv_cache.h"
#include "csrc/nn/layers.h"
#include "csrc/nn/weights.h"

namespace torchwhisper::nn {

/// Room for one token of every sequence between the layers of a decoder, kept from token to token.
class TORCHWHISPER_API StepBuffers {
 public:
  StepBuffers() = default;
  StepBuffers(std::int64_t rows, std::int64_t n_state)
      : size_(rows * n_state), memory_(static_cast<std::size_t>(6 * size_)) {}

  float* normed() { return memory_.data(); }            // [rows][n_state]
  float* attended() { return memory_.data() + size_; }  // [rows][n_state]
  float* wide() { return memory_.data() + 2 * size_; }  // [rows][4 * n_state]
  bool fit(std::int64_t rows, std::int64_t n_state) const { return size_ == rows * n_state; }

 private:
  std::int64_t size_ = 0;
  std::vector<float> memory_;
};

/// Multi-head attention with upstream's names (whisper/model.py, MultiHeadAttention).
struct TORCHWHISPER_API MultiHeadAttentionImpl : torch::nn::Module {
  MultiHeadAttentionImpl(const Weights& given, std::int64_t n_state, std::int64_t n_head);

  struct Scored {
    at::Tensor out;     // [batch, time, n_state]
    at::Tensor scores;  // [batch, wanted head, time, memory] float32, before the softmax
  };

  /// x: [batch, time, n_state] attends to itself -> residual + [batch, time, n_state].
  at::Tensor self_attention(const at::Tensor& x, bool causal, const at::Tensor& residual);

  /// The same for the next tokens of sequences whose earlier tokens are in `cache`. Several tokens at once
  /// are allowed only while the cache is empty, since causal attention counts from the first token.
  /// Returns residual + attention.
  at::Tensor cached_self_attention(const at::Tensor& x, KeyValueCache& cache, const at::Tensor& residual);

  /// x: [batch * group, time, n_state] attends to the audio features [batch, frame, n_state] of `batch`
  /// recordings; the rows of one recording are neighbours and share its features.
  at::Tensor cross_attention(const at::Tensor& x, const at::Tensor& features);

  /// Keys and values of the audio features, for callers that attend to them again and again. No gradients.
  KeyValueCache remember(const at::Tensor& features);
  /// residual + attention of x to them.
  at::Tensor cached_cross_attention(const at::Tensor& x, const KeyValueCache& memory,
                                    const at::Tensor& residual);

  /// Both kinds of cached attention for one new token of every sequence, on plain rows: the normalised x
  /// ([rows][n_state]) attends, and y ([rows][n_state]) grows by the result. Needs takes_rows().
  void step_self_attention(const float* x, KeyValueCache& cache, StepBuffers& buffers, float* y) const;
  void step_cross_attention(const float* x, std::int64_t rows, const KeyValueCache& memory,
                            StepBuffers& buffers, float* y) const;

  /// Whether prepare() has laid out weights that multiply plain rows.
  bool takes_rows() const;

  /// Both kinds of attention spelled out, that to the audio keeping the scores of some heads. `mask`:
  /// [time, time].
  at::Tensor masked_self_attention(const at::Tensor& x, const at::Tensor& mask);
  Scored cross_attention_with_scores(const at::Tensor& x, const KeyValueCache& memory,
                                     const std::vector<std::int64_t>& heads);

  /// Derives the weights for inference on x of few or many rows: the queries, keys and values of
  /// self-attention become one product, the keys and values of the audio features another.
  void prepare(Precision precision, Rows rows, WeightArena& arena, bool attends_to_itself);

  std::int64_t n_head;
  Linear query{nullptr};
  Linear key{nullptr};
  Linear value{nullptr};
  Linear out{nullptr};

 private:
  struct Projected {
    at::Tensor q;  // [batch, time, n_state]
    at::Tensor k;  // [batch, head, time, dim]
    at::Tensor v;
  };

  Projected project_self(const at::Tensor& x);
  std::pair<at::Tensor, at::Tensor> project_features(const at::Tensor& features);
  at::Tensor split(const at::Tensor& x) const;
  at::Tensor attend_densely(const at::Tensor& x) const;

  std::unique_ptr<const PackedLinear> packed_query_key_value_;
  std::unique_ptr<const PackedLinear> packed_key_value_;
  bool shortens_memory_ = false;  // whether keys and values of audio features are kept in bfloat16
  bool in_bfloat16_ = false;      // whether unmasked self-attention is multiplied in it
};
TORCH_MODULE(MultiHeadAttention);

}  // namespace torchwhisper::nn
