#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/common/control.h"
#include "csrc/decoding/options.h"
#include "csrc/model/whisper.h"

namespace torchwhisper::decoding {

/// Runs the text decoder token by token with a static KV cache (whisper/decoding.py, PyTorchInference).
class TORCHWHISPER_API Inference {
 public:
  /// `drafts`: step() may give approximate logits, which refine() makes exact where they matter; for
  /// searches that look at the best ones only.
  Inference(model::Whisper whisper, const model::AudioMemory& memory, bool drafts);

  struct Prefill {
    at::Tensor last;    // [n_audio, n_vocab] float32: logits after the last initial token
    at::Tensor at_sot;  // [n_audio, n_vocab] float32: logits after <|startoftranscript|>
  };

  /// Runs the initial tokens, one sequence of equal length per recording.
  Prefill prefill(const std::vector<Sequence>& initial_tokens, std::int64_t sot_index,
                  common::Control& control = common::unstoppable());

  /// From now on `group` sequences per recording, all alike at first.
  void expand_groups(std::int64_t group);

  /// Runs the last token of every sequence: logits [sequence, n_vocab] float32.
  at::Tensor step(const std::vector<Sequence>& sequences);

  /// Makes the `best` largest of each row of step()'s logits exact, some of which may have been set to -inf
  /// since, and those from `timestamp_begin` on (-1: none) where their sum may count. See VocabularyHead.
  void refine(at::Tensor& logits, std::int64_t best, std::int64_t timestamp_begin);

  /// Sequence i continues what was sequence sources[i].
  void reorder(const std::vector<std::int64_t>& sources);

 private:
  at::Tensor to_tensor(const std::vector<std::int64_t>& tokens, std::int64_t rows) const;

  model::Whisper whisper_;
  const model::AudioMemory& memory_;
  bool drafts_;
  bool drafted_ = false;  // whether the last step's logits are drafts
  std::int64_t steps_without_drafts_ = 0;
  model::DecoderState state_;
  at::Tensor hidden_;  // [sequence, n_state], what step()'s logits were made of
};

}  // namespace torchwhisper::decoding
