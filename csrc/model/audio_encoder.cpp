#include "csrc/model/audio_encoder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <string>
#include <vector>

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

// The convolutions by the prepared weights, in rows of time with room for the padding.
at::Tensor AudioEncoderImpl::embed_prepared(const at::Tensor& mel) const {
  const std::int64_t frames = mel.size(2);
  const std::int64_t n_state = positional_embedding.size(1);
  at::Tensor input = at::zeros({mel.size(0), frames + 2, mel.size(1)}, mel.options());
  input.narrow(1, 1, frames).copy_(mel.transpose(1, 2));
  at::Tensor wide = at::empty({mel.size(0), frames + 2, n_state}, mel.options());
  wide.select(1, 0).zero_();
  wide.select(1, frames + 1).zero_();
  conv1->packed()->forward_gelu(input, /*residual=*/{}, wide.narrow(1, 1, frames));
  at::Tensor x = at::empty({mel.size(0), frames / 2, n_state}, mel.options());
  conv2->packed()->forward_gelu(wide, prepared_positions_, x);
  return x;
}

at::Tensor AudioEncoderImpl::embed(const at::Tensor& mel) {
  const at::Tensor x = at::gelu(conv2(at::gelu(conv1(mel)))).transpose(1, 2);
  // The convolutions leave frames strided; every block wants them in rows.
  return (x + positional_embedding).to(x.scalar_type()).contiguous();
}

at::Tensor AudioEncoderImpl::forward(const at::Tensor& mel, common::Control& control,
                                     const nn::BlockTraining& training) {
  // The second convolution takes every other frame, the last one of an odd number too.
  TORCH_CHECK_VALUE((mel.size(2) + 1) / 2 == positional_embedding.size(0),
                    "incorrect audio shape: the mel spectrogram has ", mel.size(2), " frames, expected ",
                    2 * positional_embedding.size(0));
  // A CPU is no slower with one window after the other, needs less memory, and stops within a layer of one.
  if (mel.is_cpu() && mel.size(0) > 1 && !at::GradMode::is_enabled() && !training.changes_blocks()) {
    std::vector<at::Tensor> windows;
    for (const at::Tensor& window : mel.split(1)) {
      windows.push_back(encode(window, control, training));
    }
    return at::cat(windows);
  }
  return encode(mel, control, training);
}

at::Tensor AudioEncoderImpl::encode(const at::Tensor& mel, common::Control& control,
                                    const nn::BlockTraining& training) {
  const bool prepared = prepared_positions_.defined() && mel.scalar_type() == at::kFloat &&
                        mel.size(2) % 2 == 0 && !at::GradMode::is_enabled();
  at::Tensor x = prepared ? embed_prepared(mel) : embed(mel);
  const bool trains = at::GradMode::is_enabled() || training.changes_blocks();
  std::int64_t done = 0;
  for (nn::ResidualAttentionBlock& block : blocks) {
    x = trains ? block->forward_training(x, /*features=*/{}, training.of_block(done)) : block->encode(x);
    control.step(common::Stage::kEncode, ++done);
  }
  return ln_post(x);
}

void AudioEncoderImpl::prepare(nn::Precision precision, nn::WeightArena& arena, common::Control& control) {
  std::int64_t done = 0;
  for (nn::ResidualAttentionBlock& block : blocks) {
    block->prepare(precision, arena);
    control.step(common::Stage::kPrepare, ++done);
  }
  ln_post->prepare();
  if (precision.activations == at::kFloat && positional_embedding.is_cpu()) {
    conv1->prepare(precision.products, arena);
    conv2->prepare(precision.products, arena);
    prepared_positions_ = positional_embedding.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  }
}

}  // namespace torchwhisper::model
