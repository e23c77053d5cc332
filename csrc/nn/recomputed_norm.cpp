#include "csrc/nn/recomputed_norm.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {

RecomputedNorm::RecomputedNorm(const at::Tensor& x, const Affine& norm, const std::array<bool, 3>& wanted,
                               const Autocast& autocast)
    : wanted_(wanted), inputs_{x.detach(), norm.weight.detach(), norm.bias.detach()} {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    inputs_[i].set_requires_grad(wanted[i]);
  }
  const AutocastGuard as_forward(autocast);
  const at::AutoGradMode record(true);
  out_ = functional::layer_norm_for_training(inputs_[0], inputs_[1], inputs_[2]);
}

std::array<at::Tensor, 3> RecomputedNorm::backward(const at::Tensor& grad) const {
  std::vector<at::Tensor> inputs;
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (wanted_[i]) {
      inputs.push_back(inputs_[i]);
    }
  }
  std::array<at::Tensor, 3> gradients;
  if (inputs.empty()) {
    return gradients;
  }
  const auto found = torch::autograd::grad({out_}, inputs, {grad.to(out_.scalar_type())});
  std::size_t next = 0;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (wanted_[i]) {
      gradients[i] = found[next++];
    }
  }
  return gradients;
}

}  // namespace torchwhisper::nn
