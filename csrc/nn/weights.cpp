#include "csrc/nn/weights.h"

#include <c10/util/Exception.h>

#include <utility>

namespace torchwhisper::nn {

Weights::Weights(const NamedTensors& tensors, std::string prefix)
    : tensors_(&tensors), prefix_(std::move(prefix)) {}

Weights Weights::operator[](const std::string& name) const {
  return Weights(*tensors_, prefix_ + name + ".");
}

at::Tensor Weights::take(const std::string& name, at::IntArrayRef shape) const {
  const auto found = tensors_->find(prefix_ + name);
  TORCH_CHECK_VALUE(found != tensors_->end(), "the weights have no tensor '", prefix_, name,
                    "': this is not a complete Whisper checkpoint");
  TORCH_CHECK_VALUE(found->second.sizes() == shape, "tensor '", prefix_, name, "' has shape ",
                    found->second.sizes(), ", expected ", shape, " from the model dimensions");
  return found->second;
}

}  // namespace torchwhisper::nn
