#include "csrc/decoding/logit_filter.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "csrc/kernels/table.h"

namespace torchwhisper::decoding {
namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();

// On a CPU a few writes are done long before an operation of ATen has begun.
float* row_on_cpu(const at::Tensor& logits, std::int64_t row) {
  return logits.mutable_data_ptr<float>() + row * logits.stride(0);
}

// Of one row; what lies beyond the vocabulary is passed over.
void forbid(const at::Tensor& logits, std::int64_t row, std::int64_t begin, std::int64_t end) {
  end = std::min(end, logits.size(1));
  if (begin >= end) {
    return;
  }
  if (logits.is_cpu()) {
    std::fill(row_on_cpu(logits, row) + begin, row_on_cpu(logits, row) + end, static_cast<float>(kForbidden));
  } else {
    logits[row].slice(0, begin, end).fill_(kForbidden);
  }
}

// Of all rows.
void forbid(const at::Tensor& logits, const at::Tensor& tokens) {
  if (!logits.is_cpu()) {
    logits.index_fill_(1, tokens, kForbidden);
    return;
  }
  const std::int64_t n_vocab = logits.size(1);
  const std::int64_t* first = tokens.const_data_ptr<std::int64_t>();
  for (const std::int64_t* token = first; token != first + tokens.numel(); ++token) {
    TORCH_CHECK_INDEX(*token >= -n_vocab && *token < n_vocab, "index ", *token,
                      " is out of bounds for dimension 1 with size ", n_vocab);
    for (std::int64_t row = 0; row < logits.size(0); ++row) {
      row_on_cpu(logits, row)[*token < 0 ? *token + n_vocab : *token] = static_cast<float>(kForbidden);
    }
  }
}

// Log-probabilities differ from logits by one number per row, which both sides of the comparison share.
std::vector<bool> timestamps_win(const at::Tensor& logits, std::int64_t begin) {
  const std::int64_t n_timestamps = logits.size(1) - begin;
  std::vector<bool> win;
  if (!logits.is_cpu()) {
    const at::Tensor together = logits.slice(1, begin).logsumexp(-1);
    const at::Tensor larger = together.gt(logits.slice(1, 0, begin).amax(-1)).cpu();
    win.assign(larger.const_data_ptr<bool>(), larger.const_data_ptr<bool>() + larger.numel());
    return win;
  }
  const auto& kernels = kernels::kernels();
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    const float* text = logits.const_data_ptr<float>() + row * logits.stride(0);
    const float* timestamps = text + begin;
    const bool any = kernels.maximum(timestamps, n_timestamps) > std::numeric_limits<float>::lowest();
    win.push_back(any && kernels.log_sum_exp(timestamps, n_timestamps) > kernels.maximum(text, begin));
  }
  return win;
}

bool at_first_token(const std::vector<Sequence>& sequences, std::size_t sample_begin) {
  return sequences.front().size() == sample_begin;
}

}  // namespace

SuppressBlank::SuppressBlank(const std::vector<std::int64_t>& tokens, std::int64_t sample_begin,
                             at::Device device)
    : tokens_(at::tensor(tokens, at::kLong).to(device)),
      sample_begin_(static_cast<std::size_t>(sample_begin)) {}

void SuppressBlank::apply(at::Tensor& logits, const std::vector<Sequence>& sequences) const {
  if (at_first_token(sequences, sample_begin_)) {
    forbid(logits, tokens_);
  }
}

SuppressTokens::SuppressTokens(const std::vector<std::int64_t>& tokens, at::Device device)
    : tokens_(at::tensor(tokens, at::kLong).to(device)) {}

void SuppressTokens::apply(at::Tensor& logits, const std::vector<Sequence>& /*sequences*/) const {
  forbid(logits, tokens_);
}

ApplyTimestampRules::ApplyTimestampRules(const DecodingOptions& options)
    : timestamp_begin_(options.timestamp_begin),
      no_timestamps_(options.no_timestamps),
      eot_(options.eot),
      sample_begin_(static_cast<std::size_t>(options.sample_begin)),
      max_initial_timestamp_index_(options.max_initial_timestamp_index) {}

void ApplyTimestampRules::apply(at::Tensor& logits, const std::vector<Sequence>& sequences) const {
  const bool first = at_first_token(sequences, sample_begin_);
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    if (no_timestamps_ >= 0) {
      forbid(logits, row, no_timestamps_, no_timestamps_ + 1);
    }
    apply_pairing(logits, row, sequences[static_cast<std::size_t>(row)]);
    if (first) {
      apply_first_timestamp(logits, row);
    }
  }
}

void ApplyTimestampRules::apply_pairing(const at::Tensor& logits, std::int64_t row,
                                        const Sequence& sequence) const {
  const std::size_t n_sampled = sequence.size() - sample_begin_;
  const auto is_timestamp = [&](std::int64_t token) { return token >= timestamp_begin_; };
  const bool last = n_sampled >= 1 && is_timestamp(sequence[sequence.size() - 1]);
  const bool penultimate = n_sampled < 2 || is_timestamp(sequence[sequence.size() - 2]);
  if (last && penultimate) {
    forbid(logits, row, timestamp_begin_, logits.size(1));  // a pair is complete: text comes next
  } else if (last) {
    forbid(logits, row, 0, eot_);  // a pair is open: no text
  }
  const auto latest = std::find_if(
      sequence.rbegin(), sequence.rend() - static_cast<std::ptrdiff_t>(sample_begin_), is_timestamp);
  if (latest != sequence.rend() - static_cast<std::ptrdiff_t>(sample_begin_)) {
    // A segment may end where it began only by repeating the timestamp as the next one's start.
    forbid(logits, row, timestamp_begin_, last && !penultimate ? *latest : *latest + 1);
  }
}

void ApplyTimestampRules::apply_first_timestamp(const at::Tensor& logits, std::int64_t row) const {
  forbid(logits, row, 0, timestamp_begin_);
  if (max_initial_timestamp_index_ >= 0) {
    forbid(logits, row, timestamp_begin_ + max_initial_timestamp_index_ + 1, logits.size(1));
  }
}

void TimestampProbability::apply(at::Tensor& logits, const std::vector<Sequence>& /*sequences*/) const {
  const std::vector<bool> win = timestamps_win(logits, timestamp_begin_);
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    if (win[static_cast<std::size_t>(row)]) {
      forbid(logits, row, 0, timestamp_begin_);
    }
  }
}

LogitFilters make_logit_filters(const DecodingOptions& options, at::Device device) {
  LogitFilters filters;
  if (!options.suppress_blank.empty()) {
    filters.masks.push_back(
        std::make_unique<SuppressBlank>(options.suppress_blank, options.sample_begin, device));
  }
  if (!options.suppress_tokens.empty()) {
    filters.masks.push_back(std::make_unique<SuppressTokens>(options.suppress_tokens, device));
  }
  if (options.timestamp_begin >= 0) {
    filters.masks.push_back(std::make_unique<ApplyTimestampRules>(options));
    filters.timestamp_probability = std::make_unique<TimestampProbability>(options.timestamp_begin);
  }
  return filters;
}

}  // namespace torchwhisper::decoding
