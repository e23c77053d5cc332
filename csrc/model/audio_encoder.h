#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <vector>

#include "csrc/common/api.h"
#include "csrc/common/control.h"
#include "csrc/model/dimensions.h"
#include "csrc/nn/block.h"
#include "csrc/nn/checkpoint.h"
#include "csrc/nn/layers.h"
#include "csrc/nn/weights.h"

namespace torchwhisper::model {

/// The audio half of Whisper with upstream's names (whisper/model.py, AudioEncoder).
struct TORCHWHISPER_API AudioEncoderImpl : torch::nn::Module {
  AudioEncoderImpl(const ModelDimensions& dims, const nn::Weights& given);

  /// mel: [batch, n_mels, 2 * n_audio_ctx] -> [batch, n_audio_ctx, n_audio_state].
  /// Throws ValueError "incorrect audio shape" for any other number of frames.
  at::Tensor forward(const at::Tensor& mel, common::Control& control, const nn::BlockTraining& training = {});

  void prepare(nn::Precision precision, nn::WeightArena& arena,
               common::Control& control = common::unstoppable());

  nn::Conv1d conv1{nullptr};
  nn::Conv1d conv2{nullptr};
  at::Tensor positional_embedding;  // [n_audio_ctx, n_audio_state], a buffer
  std::vector<nn::ResidualAttentionBlock> blocks;
  nn::LayerNorm ln_post{nullptr};

 private:
  at::Tensor encode(const at::Tensor& mel, common::Control& control, const nn::BlockTraining& training);
  at::Tensor embed(const at::Tensor& mel);
  at::Tensor embed_prepared(const at::Tensor& mel) const;

  at::Tensor prepared_positions_;  // float32; undefined until prepared for it on a CPU
};
TORCH_MODULE(AudioEncoder);

}  // namespace torchwhisper::model
