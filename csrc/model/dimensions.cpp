#include "csrc/model/dimensions.h"

#include <c10/util/Exception.h>

#include <utility>

namespace torchwhisper::model {

void ModelDimensions::check() const {
  const std::pair<const char*, std::int64_t> sizes[] = {{"n_mels", n_mels},
                                                        {"n_audio_ctx", n_audio_ctx},
                                                        {"n_audio_state", n_audio_state},
                                                        {"n_audio_head", n_audio_head},
                                                        {"n_audio_layer", n_audio_layer},
                                                        {"n_vocab", n_vocab},
                                                        {"n_text_ctx", n_text_ctx},
                                                        {"n_text_state", n_text_state},
                                                        {"n_text_head", n_text_head},
                                                        {"n_text_layer", n_text_layer}};
  for (const auto& [name, size] : sizes) {
    TORCH_CHECK_VALUE(size > 0, "model dimension ", name, " is ", size, ", expected a positive number");
  }
  TORCH_CHECK_VALUE(n_audio_state % n_audio_head == 0, "n_audio_state (", n_audio_state,
                    ") must be a multiple of n_audio_head (", n_audio_head, ")");
  TORCH_CHECK_VALUE(n_text_state % n_text_head == 0, "n_text_state (", n_text_state,
                    ") must be a multiple of n_text_head (", n_text_head, ")");
  TORCH_CHECK_VALUE(n_audio_state == n_text_state, "n_audio_state (", n_audio_state, ") and n_text_state (",
                    n_text_state, ") must be equal, since the decoder attends to the encoder's output");
}

}  // namespace torchwhisper::model
