#include "csrc/model/whisper.h"

#include <ATen/ATen.h>

#include <string>

#include "csrc/nn/huge_pages.h"

namespace torchwhisper::model {
namespace {

ModelDimensions checked(const ModelDimensions& dims) {
  dims.check();
  return dims;
}

}  // namespace

WhisperImpl::WhisperImpl(const ModelDimensions& dims_, const nn::NamedTensors& given)
    : dims(checked(dims_)),
      encoder(register_module("encoder", AudioEncoder(dims, nn::Weights(given)["encoder"]))),
      decoder(register_module("decoder", TextDecoder(dims, nn::Weights(given)["decoder"]))) {}

at::Tensor WhisperImpl::forward(const at::Tensor& mel, const at::Tensor& tokens, common::Control& control) {
  return decoder->forward(tokens, embed_audio(mel, control), control);
}

at::Tensor WhisperImpl::embed_audio(const at::Tensor& mel, common::Control& control) {
  TORCH_CHECK_VALUE(mel.dim() == 3 && mel.size(1) == dims.n_mels, "the mel spectrogram has shape ",
                    mel.sizes(), ", expected [batch, ", dims.n_mels, ", ", 2 * dims.n_audio_ctx, "]");
  return encoder->forward(mel, control);
}

at::Tensor WhisperImpl::logits(const at::Tensor& tokens, const at::Tensor& features,
                               common::Control& control) {
  return decoder->forward(tokens, features, control);
}

void WhisperImpl::prepare(nn::Precision precision, common::Control& control) {
  const std::string_view obstacle = nn::compute_type_obstacle(precision.products);
  TORCH_CHECK_VALUE(obstacle.empty(), obstacle);
  TORCH_CHECK_VALUE(precision.products == nn::ComputeType::kFloat32 ||
                        (precision.activations == at::kFloat && decoder->token_embedding.is_cpu()),
                    "int8 and bfloat16 products are for float32 activations on a CPU, got ",
                    precision.activations, " on ", decoder->token_embedding.device());
  const at::NoGradGuard no_grad;
  nn::WeightArena arena;
  encoder->prepare(precision, arena, control);
  decoder->prepare(precision, arena, control);
}

}  // namespace torchwhisper::model
