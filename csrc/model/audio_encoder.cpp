#include "csrc/model/audio_encoder.h"

#include <ATen/ATen.h>

#include <string>

#include "csrc/model/block_list.h"

namespace torchwhisper::model {

AudioEncoderImpl::AudioEncoderImpl(const ModelDimensions& dims, const nn::Weights& given)
    : conv1(register_module("conv1",
                            nn::Conv1d(given["conv1"], dims.n_mels, dims.n_audio_state, /*stride=*/1))),
      conv2(register_module(
          "conv2", nn::Conv1d(given["conv2"], dims.n_audio_state, dims.n_audio_state, /*stride=*/2))),
      positional_embedding(
          register_buffer("positional_embedding",
                          given.take("positional_embedding", {dims.n_audio_ctx, dims.n_audio_state}))),
      blocks(register_blocks(*this, given["blocks"], dims.n_audio_layer, dims.n_audio_state,
                             dims.n_audio_head,
                             /*cross_attention=*/false)),
      ln_post(register_module("ln_post", nn::LayerNorm(given["ln_post"], dims.n_audio_state))) {}

at::Tensor AudioEncoderImpl::forward(const at::Tensor& mel, common::Control& control,
                                     const nn::BlockTraining& training) {
  at::Tensor x = at::gelu(conv2(at::gelu(conv1(mel)))).transpose(1, 2);
  TORCH_CHECK_VALUE(x.size(1) == positional_embedding.size(0),
                    "incorrect audio shape: the mel spectrogram has ", mel.size(2), " frames, expected ",
                    2 * positional_embedding.size(0));
  // The convolutions leave frames strided; every block wants them in rows.
  x = (x + positional_embedding).to(x.scalar_type()).contiguous();
  std::int64_t done = 0;
  for (nn::ResidualAttentionBlock& block : blocks) {
    x = training.changes_blocks() ? block->forward_training(x, /*features=*/{}, training.of_block(done))
                                  : block->encode(x);
    control.step(common::Stage::kEncode, ++done);
  }
  return ln_post(x);
}

void AudioEncoderImpl::prepare(nn::Precision precision, nn::WeightArena& arena) {
  for (nn::ResidualAttentionBlock& block : blocks) {
    block->prepare(precision, arena);
  }
  ln_post->prepare();
}

}  // namespace torchwhisper::model
