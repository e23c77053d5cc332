#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/decoding/options.h"

namespace torchwhisper::decoding {

/// Masks logits in place before the next token is chosen (whisper/decoding.py, LogitFilter).
class TORCHWHISPER_API LogitFilter {
 public:
  virtual ~LogitFilter() = default;

  /// logits: [sequence, n_vocab] float32, sequences: as many, all of one length.
  virtual void apply(at::Tensor& logits, const std::vector<Sequence>& sequences) const = 0;
};

/// Forbids `tokens` as the first decoded token.
class TORCHWHISPER_API SuppressBlank : public LogitFilter {
 public:
  SuppressBlank(const std::vector<std::int64_t>& tokens, std::int64_t sample_begin, at::Device device);
  void apply(at::Tensor& logits, const std::vector<Sequence>& sequences) const override;

 private:
  at::Tensor tokens_;
  std::size_t sample_begin_;
};

/// Forbids `tokens` everywhere.
class TORCHWHISPER_API SuppressTokens : public LogitFilter {
 public:
  SuppressTokens(const std::vector<std::int64_t>& tokens, at::Device device);
  void apply(at::Tensor& logits, const std::vector<Sequence>& sequences) const override;

 private:
  at::Tensor tokens_;
};

/// Timestamps come in pairs, never go back and start the text. With TimestampProbability this is upstream's
/// ApplyTimestampRules.
class TORCHWHISPER_API ApplyTimestampRules : public LogitFilter {
 public:
  explicit ApplyTimestampRules(const DecodingOptions& options);
  void apply(at::Tensor& logits, const std::vector<Sequence>& sequences) const override;

 private:
  void apply_pairing(const at::Tensor& logits, std::int64_t row, const Sequence& sequence) const;
  void apply_first_timestamp(const at::Tensor& logits, std::int64_t row) const;

  std::int64_t timestamp_begin_;
  std::int64_t no_timestamps_;
  std::int64_t eot_;
  std::size_t sample_begin_;
  std::int64_t max_initial_timestamp_index_;
};

/// Forbids text where the timestamps are together more probable than any single text token.
class TORCHWHISPER_API TimestampProbability : public LogitFilter {
 public:
  explicit TimestampProbability(std::int64_t timestamp_begin) : timestamp_begin_(timestamp_begin) {}
  void apply(at::Tensor& logits, const std::vector<Sequence>& sequences) const override;

 private:
  std::int64_t timestamp_begin_;
};

/// The filters that the options ask for, in upstream's order: those that forbid tokens whatever their logits,
/// and the last one, which compares logits.
struct LogitFilters {
  std::vector<std::unique_ptr<LogitFilter>> masks;
  std::unique_ptr<LogitFilter> timestamp_probability;  // or null
};
TORCHWHISPER_API LogitFilters make_logit_filters(const DecodingOptions& options, at::Device device);

}  // namespace torchwhisper::decoding
