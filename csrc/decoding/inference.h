#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/decoding/options.h"
#include "csrc/model/whisper.h"

namespace torchwhisper::decoding {

/// Runs the text decoder token by token with a static KV cache (whisper/decoding.py, PyTorchInference).
class TORCHWHISPER_API Inference {
 public:
  /// features: [n_audio, frame, n_state].
  Inference(model::Whisper whisper, const at::Tensor& features);

  struct Prefill {
    at::Tensor last;    // [n_audio, n_vocab] float32: logits after the last initial token
    at::Tensor at_sot;  // [n_audio, n_vocab] float32: logits after <|startoftranscript|>
  };

  /// Runs the initial tokens, one sequence of equal length per recording.
  Prefill prefill(const std::vector<Sequence>& initial_tokens, std::int64_t sot_index);

  /// From now on `group` sequences per recording, all alike at first.
  void expand_groups(std::int64_t group);

  /// Runs the last token of every sequence: logits [sequence, n_vocab] float32.
  at::Tensor step(const std::vector<Sequence>& sequences);

  /// Sequence i continues what was sequence sources[i].
  void reorder(const std::vector<std::int64_t>& sources);

 private:
  at::Tensor to_tensor(const std::vector<std::int64_t>& tokens, std::int64_t rows) const;

  model::Whisper whisper_;
  at::Device device_;
  model::DecoderState state_;
};

}  // namespace torchwhisper::decoding
