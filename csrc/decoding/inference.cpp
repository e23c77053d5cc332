#include "csrc/decoding/inference.h"

#include <ATen/ATen.h>

#include <utility>

namespace torchwhisper::decoding {
namespace {

// Logits that are too flat for drafts stay so for a while: so many steps pass before the next draft.
constexpr std::int64_t kStepsWithoutDrafts = 15;

}  // namespace

Inference::Inference(model::Whisper whisper, const model::AudioMemory& memory, bool drafts)
    : whisper_(std::move(whisper)),
      memory_(memory),
      drafts_(drafts),
      state_(whisper_->decoder->start(memory)) {}

at::Tensor Inference::to_tensor(const std::vector<std::int64_t>& tokens, std::int64_t rows) const {
  return at::tensor(tokens, at::kLong).view({rows, -1}).to(whisper_->decoder->token_embedding.device());
}

Inference::Prefill Inference::prefill(const std::vector<Sequence>& initial_tokens, std::int64_t sot_index,
                                      common::Control& control) {
  std::vector<std::int64_t> flat;
  for (const Sequence& sequence : initial_tokens) {
    flat.insert(flat.end(), sequence.begin(), sequence.end());
  }
  const auto n_sequence = static_cast<std::int64_t>(initial_tokens.size());
  const at::Tensor hidden = whisper_->decoder->advance(to_tensor(flat, n_sequence), memory_, state_, control);
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
  hidden_ = whisper_->decoder->advance_by_one(last, memory_, state_);
  const auto* head = drafts_ ? whisper_->decoder->prepared_head(hidden_) : nullptr;
  drafted_ = head != nullptr && steps_without_drafts_ == 0;
  if (drafted_) {
    return head->draft(hidden_);
  }
  steps_without_drafts_ -= steps_without_drafts_ > 0 ? 1 : 0;
  return whisper_->decoder->project(hidden_);
}

void Inference::refine(at::Tensor& logits, std::int64_t best, std::int64_t timestamp_begin) {
  if (drafted_ &&
      whisper_->decoder->prepared_head(hidden_)->refine(logits, hidden_, {best, timestamp_begin})) {
    steps_without_drafts_ = kStepsWithoutDrafts;
  }
}

void Inference::reorder(const std::vector<std::int64_t>& sources) { state_.reorder(sources); }

}  // namespace torchwhisper::decoding
