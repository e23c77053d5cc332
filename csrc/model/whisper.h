#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "csrc/common/api.h"
#include "csrc/common/control.h"
#include "csrc/model/audio_encoder.h"
#include "csrc/model/dimensions.h"
#include "csrc/model/text_decoder.h"
#include "csrc/nn/weights.h"

namespace torchwhisper::model {

/// Whisper with upstream's names (whisper/model.py, Whisper). It adopts the tensors it is given: parameters
/// that the caller changes in place change here as well.
struct TORCHWHISPER_API WhisperImpl : torch::nn::Module {
  /// `given` holds every tensor of upstream's state_dict. Throws ValueError naming what is missing or
  /// misshapen.
  WhisperImpl(const ModelDimensions& dims, const nn::NamedTensors& given);

  /// mel: [batch, n_mels, 2 * n_audio_ctx], tokens: [batch, time] int64 -> logits [batch, time, n_vocab].
  at::Tensor forward(const at::Tensor& mel, const at::Tensor& tokens,
                     common::Control& control = common::unstoppable());

  /// mel: [batch, n_mels, 2 * n_audio_ctx] -> features [batch, n_audio_ctx, n_audio_state].
  at::Tensor embed_audio(const at::Tensor& mel, common::Control& control);

  /// tokens: [batch, time] int64, features: [batch, n_audio_ctx, n_audio_state] -> [batch, time, n_vocab].
  at::Tensor logits(const at::Tensor& tokens, const at::Tensor& features,
                    common::Control& control = common::unstoppable());

  /// Derives weights for inference. They do not follow later changes of the parameters: compare
  /// fingerprint() with what it was, and make a new module where it differs. Throws ValueError for products
  /// that this processor does not do fast, or that are not of float32 activations on a CPU. After cancel()
  /// only a part is prepared: the module is of no use then.
  void prepare(nn::Precision precision, common::Control& control = common::unstoppable());

  ModelDimensions dims;
  AudioEncoder encoder{nullptr};
  TextDecoder decoder{nullptr};
};
TORCH_MODULE(Whisper);

}  // namespace torchwhisper::model
