#include "csrc/timing/alignment.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/square.h>

#include <algorithm>
#include <cmath>

#include "csrc/kernels/table.h"
#include "csrc/timing/dtw.h"
#include "csrc/timing/median_filter.h"

namespace torchwhisper::timing {
namespace {

// Over the tokens: (x - mean) / standard deviation, in place. at::std_mean() takes three times as long.
at::Tensor standardize(const at::Tensor& weights) {
  weights.sub_(weights.mean(-2, /*keepdim=*/true));
  return weights.div_(weights.square().mean(-2, /*keepdim=*/true).sqrt_());
}

// log(sum(exp(x))) of every row. x: [row, n] float32.
std::vector<double> log_sum_exps(const at::Tensor& x) {
  std::vector<double> sums(static_cast<std::size_t>(x.size(0)));
  at::parallel_for(0, x.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      sums[static_cast<std::size_t>(row)] = static_cast<double>(
          kernels::kernels().log_sum_exp(x.const_data_ptr<float>() + row * x.stride(0), x.size(1)));
    }
  });
  return sums;
}

}  // namespace

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
  weights = at::softmax(options.qk_scale == 1.0 ? weights : weights.mul(options.qk_scale), -1);
  control.step(common::Stage::kAlign, 0);
  weights = median_filter(standardize(weights), options.medfilt_width);
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
  const at::Tensor on_cpu = text.to(at::kCPU, at::kFloat);
  const std::vector<double> sums = log_sum_exps(on_cpu);
  std::vector<double> probabilities;
  probabilities.reserve(text_tokens.size());
  for (std::size_t i = 0; i < text_tokens.size(); ++i) {
    const float* row = on_cpu.const_data_ptr<float>() + static_cast<std::int64_t>(i) * on_cpu.stride(0);
    probabilities.push_back(std::exp(static_cast<double>(row[text_tokens[i]]) - sums[i]));
  }
  return probabilities;
}

}  // namespace torchwhisper::timing
