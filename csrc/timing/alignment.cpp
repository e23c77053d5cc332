#include "csrc/timing/alignment.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/std_mean.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "csrc/timing/dtw.h"
#include "csrc/timing/median_filter.h"

namespace torchwhisper::timing {

at::Tensor alignment_matrix(const at::Tensor& qk, const AlignmentOptions& options, common::Control& control) {
  TORCH_CHECK_VALUE(qk.dim() == 3 && qk.size(0) > 0, "the attention scores have shape ", qk.sizes(),
                    ", expected (heads, tokens, frames) with at least one head");
  TORCH_CHECK_VALUE(options.sot_length >= 0 && qk.size(1) > options.sot_length, "got ", qk.size(1),
                    " tokens, expected more than the ", options.sot_length, " of the start sequence");
  TORCH_CHECK_VALUE(options.num_frames >= 0, "got ", options.num_frames, " frames, expected none or more");
  const std::int64_t frames = std::min(qk.size(2), options.num_frames);
  if (frames == 0) {
    return at::empty({qk.size(1) - options.sot_length - 1, 0});
  }
  // weights: [head, token, frame]
  at::Tensor weights = qk.detach().narrow(2, 0, frames).to(at::kCPU);
  weights = at::softmax(weights.mul(options.qk_scale), -1);
  control.step(common::Stage::kAlign, 0);
  const auto [deviation, mean] =
      at::std_mean(weights, at::IntArrayRef{-2}, /*unbiased=*/false, /*keepdim=*/true);
  weights = median_filter(weights.sub_(mean).div_(deviation), options.medfilt_width);
  control.step(common::Stage::kAlign, 0);
  return weights.mean(0).slice(0, options.sot_length, -1);
}

at::Tensor align(const at::Tensor& qk, const AlignmentOptions& options, common::Control& control) {
  return dtw(alignment_matrix(qk, options, control).neg(), control);
}

std::vector<double> token_probabilities(const at::Tensor& logits,
                                        const std::vector<std::int64_t>& text_tokens, std::int64_t sot_length,
                                        std::int64_t eot) {
  const auto count = static_cast<std::int64_t>(text_tokens.size());
  TORCH_CHECK_VALUE(logits.dim() == 2 && sot_length >= 0 && logits.size(0) >= sot_length + count,
                    "the logits have shape ", logits.sizes(), ", expected at least ", sot_length + count,
                    " rows");
  const at::Tensor text = logits.detach().narrow(0, sot_length, count).slice(1, 0, eot);
  for (const std::int64_t token : text_tokens) {
    TORCH_CHECK_INDEX(token >= 0 && token < text.size(1), "text token ", token,
                      " is out of range, expected 0 to ", text.size(1) - 1);
  }
  const at::Tensor chosen = at::tensor(text_tokens, at::kLong).unsqueeze(1).to(text.device());
  const at::Tensor probabilities = at::softmax(text, -1).gather(1, chosen).to(at::kCPU, at::kDouble);
  const auto* first = probabilities.const_data_ptr<double>();
  return {first, first + count};
}

}  // namespace torchwhisper::timing
