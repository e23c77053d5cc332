#pragma once

#include <cstdint>

#include "csrc/common/api.h"

namespace torchwhisper::model {

/// The sizes of a Whisper model, with upstream's names (whisper/model.py, ModelDimensions).
struct TORCHWHISPER_API ModelDimensions {
  std::int64_t n_mels;         // mel bands: 80 or 128
  std::int64_t n_audio_ctx;    // encoder frames per window: 1500, of 20 ms each
  std::int64_t n_audio_state;  // width of the encoder
  std::int64_t n_audio_head;
  std::int64_t n_audio_layer;
  std::int64_t n_vocab;
  std::int64_t n_text_ctx;    // most tokens per window: 448
  std::int64_t n_text_state;  // width of the decoder
  std::int64_t n_text_head;
  std::int64_t n_text_layer;

  bool is_multilingual() const { return n_vocab >= 51865; }

  /// Throws ValueError naming the first size that no model can have.
  void check() const;
};

}  // namespace torchwhisper::model
