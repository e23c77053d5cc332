#include "csrc/decoding/inference.h"

#include <ATen/ATen.h>

#include <utility>

namespace torchwhisper::decoding {

Inference::Inference(model::Whisper whisper, const at::Tensor& features)
    : whisper_(std::move(whisper)), device_(features.device()), state_(whisper_->decoder->start(features)) {}

at::Tensor Inference::to_tensor(const std::vector<std::int64_t>& tokens, std::int64_t rows) const {
  return at::tensor(tokens, at::kLong).view({rows, -1}).to(device_);
}

Inference::Prefill Inference::prefill(const std::vector<Sequence>& initial_tokens, std::int64_t sot_index) {
  std::vector<std::int64_t> flat;
  for (const Sequence& sequence : initial_tokens) {
    flat.insert(flat.end(), sequence.begin(), sequence.end());
  }
  const at::Tensor hidden =
      whisper_->decoder->advance(to_tensor(flat, static_cast<std::int64_t>(initial_tokens.size())), state_);
  // Only two positions are ever looked at; the vocabulary is the largest product of all.
  const at::Tensor last = hidden.select(1, hidden.size(1) - 1);
  const at::Tensor at_sot = hidden.select(1, sot_index);
  const at::Tensor logits = whisper_->decoder->project(at::cat({last, at_sot}));
  const std::int64_t n_audio = last.size(0);
  return {logits.narrow(0, 0, n_audio), logits.narrow(0, n_audio, n_audio)};
}

void Inference::expand_groups(std::int64_t group) {
  if (group > 1) {
    state_.repeat_rows(group);
  }
}

at::Tensor Inference::step(const std::vector<Sequence>& sequences) {
  std::vector<std::int64_t> last;
  last.reserve(sequences.size());
  for (const Sequence& sequence : sequences) {
    last.push_back(sequence.back());
  }
  const at::Tensor tokens = to_tensor(last, static_cast<std::int64_t>(last.size()));
  return whisper_->decoder->project(whisper_->decoder->advance(tokens, state_).select(1, 0));
}

void Inference::reorder(const std::vector<std::int64_t>& sources) { state_.reorder(sources); }

}  // namespace torchwhisper::decoding
