#include "csrc/nn/vocabulary_head.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "csrc/kernels/panels.h"
#include "csrc/kernels/select.h"

namespace torchwhisper::nn {
namespace {

// Logits this far below the best one weigh e^-12 of it: a draft is good enough for their share of the sum.
constexpr float kNegligible = 12.0F;
// Float32 sums of either product differ from the true ones by far less than this share of |x| |w|.
constexpr float kRounding = 1e-5F;
// So many rows of a weight of another type are in float32 at a time while it is rounded.
constexpr std::int64_t kColumnsAtOnce = 64 * kernels::kPanelWidth;

}  // namespace

VocabularyHead::VocabularyHead(const at::Tensor& weight, Precision precision, WeightArena& arena)
    : exact_(weight, {}, precision, Rows::kFew, arena) {
  if (!weight.is_cpu() || precision.activations != at::kFloat ||
      precision.products != ComputeType::kFloat32 || !weight.is_contiguous()) {
    return;
  }
  const std::int64_t columns = weight.size(0);
  const std::int64_t depth = weight.size(1);
  panels_ = arena.allocate(kernels::panels_size(columns, depth)).view(at::kChar);
  scale_ = at::empty({kernels::panel_count(columns) * kernels::kPanelWidth}, at::kFloat);
  at::Tensor distance = at::empty_like(scale_);
  float longest = 0.0F;
  for (std::int64_t first = 0; first < columns; first += kColumnsAtOnce) {
    const at::Tensor rows = weight.detach()
                                .slice(0, first, std::min(columns, first + kColumnsAtOnce))
                                .to(at::kFloat)
                                .contiguous();
    kernels::pack_panels_int8(
        rows.const_data_ptr<float>(), rows.size(0), depth,
        {panels_.mutable_data_ptr<std::int8_t>() + first * depth, scale_.mutable_data_ptr<float>() + first,
         distance.mutable_data_ptr<float>() + first});
    longest = std::max(longest, rows.norm(2, -1).max().item<float>());
  }
  distance_ = distance.max().item<float>() + kRounding * longest;
  if (std::isfinite(distance_)) {
    weight_ = weight.detach();
  }
}

at::Tensor VocabularyHead::forward(const at::Tensor& hidden) const {
  return exact_.forward(hidden).to(at::kFloat);
}

at::Tensor VocabularyHead::draft(const at::Tensor& hidden) const {
  if (!weight_.defined()) {
    return forward(hidden);
  }
  const at::Tensor x = hidden.contiguous();
  at::Tensor logits = at::empty({x.size(0), weight_.size(0)}, x.options());
  kernels::multiply_panels_int8(
      {x.const_data_ptr<float>(), x.size(0), x.size(1), weight_.size(0), logits.mutable_data_ptr<float>()},
      panels_.const_data_ptr<std::int8_t>(), scale_.const_data_ptr<float>());
  return logits;
}

bool VocabularyHead::refine(at::Tensor& logits, const at::Tensor& hidden, Wanted wanted) const {
  if (!weight_.defined()) {
    return false;
  }
  const at::Tensor x = hidden.contiguous();
  const std::int64_t n_row = x.size(0);
  std::vector<std::vector<std::int64_t>> entries(static_cast<std::size_t>(n_row));
  at::parallel_for(0, n_row, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      entries[static_cast<std::size_t>(row)] =
          to_refine(logits.const_data_ptr<float>() + row * logits.size(1),
                    x.const_data_ptr<float>() + row * x.size(1), wanted);
    }
  });
  std::size_t n_entry = 0;
  for (const auto& one : entries) {
    n_entry += one.size();
  }
  // Flat logits: the whole product reads each weight once and costs less than so many single ones.
  const bool whole = n_entry > static_cast<std::size_t>(weight_.size(0) / 2);
  const at::Tensor exact = whole ? forward(x) : at::Tensor();
  for (std::int64_t row = 0; row < n_row; ++row) {
    float* to = logits.mutable_data_ptr<float>() + row * logits.size(1);
    const auto& places = entries[static_cast<std::size_t>(row)];
    if (whole) {
      const float* from = exact.const_data_ptr<float>() + row * logits.size(1);
      for (const std::int64_t entry : places) {
        to[entry] = from[entry];
      }
    } else {
      multiply_entries(to, x.const_data_ptr<float>() + row * x.size(1), places);
    }
  }
  return whole;
}

void VocabularyHead::multiply_entries(float* logits, const float* hidden,
                                      const std::vector<std::int64_t>& entries) const {
  const std::int64_t depth = weight_.size(1);
  const auto& dot = kernels::kernels().dot;
  const bool shortened = weight_.scalar_type() != at::kFloat;
  const float* weight = shortened ? nullptr : weight_.const_data_ptr<float>();
  at::parallel_for(0, static_cast<std::int64_t>(entries.size()), 256,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i) {
                       const std::int64_t entry = entries[static_cast<std::size_t>(i)];
                       if (shortened) {
                         const at::Tensor row = weight_.select(0, entry).to(at::kFloat);
                         logits[entry] = dot(hidden, row.const_data_ptr<float>(), depth);
                       } else {
                         logits[entry] = dot(hidden, weight + entry * depth, depth);
                       }
                     }
                   });
}

std::vector<std::int64_t> VocabularyHead::to_refine(const float* logits, const float* hidden,
                                                    Wanted wanted) const {
  const std::int64_t n_vocab = weight_.size(0);
  const std::int64_t depth = weight_.size(1);
  const float error = distance_ * std::sqrt(kernels::kernels().dot(hidden, hidden, depth));
  if (!std::isfinite(error)) {
    return {};  // no entry is a number
  }
  const std::vector<kernels::Ranked> best = kernels::largest(logits, n_vocab, wanted.best);
  // The last of the best may be `error` less than drafted, and another one `error` more.
  const float least = std::min(best.back().value - 2 * error, best.front().value - kNegligible);
  const std::int64_t alone = wanted.together < 0 ? n_vocab : wanted.together;
  std::vector<std::int64_t> entries = kernels::at_least(logits, alone, least);
  const std::int64_t n_together = n_vocab - alone;
  if (n_together == 0) {
    return entries;
  }
  const float* together = logits + alone;
  const bool any = kernels::kernels().maximum(together, n_together) >= std::numeric_limits<float>::lowest();
  if (any && kernels::kernels().log_sum_exp(together, n_together) >= least) {
    for (const std::int64_t entry :
         kernels::at_least(together, n_together, -std::numeric_limits<float>::infinity())) {
      entries.push_back(alone + entry);
    }
  }
  return entries;
}

}  // namespace torchwhisper::nn
