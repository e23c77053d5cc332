#include "csrc/decoding/task.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "csrc/decoding/inference.h"
#include "csrc/decoding/logit_filter.h"
#include "csrc/decoding/sequence_ranker.h"
#include "csrc/decoding/token_decoder.h"

namespace torchwhisper::decoding {
namespace {

void check_request(const model::AudioMemory& memory, const std::vector<Sequence>& initial_tokens,
                   const DecodingOptions& options) {
  TORCH_CHECK_VALUE(memory.n_audio() == static_cast<std::int64_t>(initial_tokens.size()), "got ",
                    initial_tokens.size(), " sequences of initial tokens for ", memory.n_audio(),
                    " recordings, expected one per recording");
  for (const Sequence& sequence : initial_tokens) {
    TORCH_CHECK_VALUE(static_cast<std::int64_t>(sequence.size()) == options.sample_begin,
                      "a sequence of initial tokens has ", sequence.size(), " tokens, expected ",
                      options.sample_begin);
  }
  TORCH_CHECK_VALUE(options.sample_begin <= options.n_ctx, "prompt and prefix make ", options.sample_begin,
                    " initial tokens, the model takes at most ", options.n_ctx, ": shorten the prefix");
  TORCH_CHECK_VALUE(options.n_group > 0 && options.sample_len > 0, "n_group is ", options.n_group,
                    " and sample_len is ", options.sample_len, ", expected positive numbers");
  TORCH_CHECK_VALUE(options.sot_index >= 0 && options.sot_index < options.sample_begin, "sot_index is ",
                    options.sot_index, ", expected one of the ", options.sample_begin, " initial tokens");
}

std::vector<Sequence> repeat(const std::vector<Sequence>& sequences, std::int64_t times) {
  std::vector<Sequence> repeated;
  repeated.reserve(sequences.size() * static_cast<std::size_t>(times));
  for (const Sequence& sequence : sequences) {
    repeated.insert(repeated.end(), static_cast<std::size_t>(times), sequence);
  }
  return repeated;
}

void read_no_speech_probs(const at::Tensor& logits, std::int64_t no_speech,
                          std::vector<DecodingResult>& results) {
  const at::Tensor probs = at::softmax(logits, -1).select(1, no_speech).cpu();
  for (std::size_t i = 0; i < results.size(); ++i) {
    results[i].no_speech_prob = probs.const_data_ptr<float>()[i];
  }
}

// The tokens between the initial ones and the first <|endoftext|> of the whole sequence.
Sequence decoded_tokens(const Sequence& sequence, const DecodingOptions& options) {
  const auto begin = sequence.begin() + options.sample_begin;
  const auto end = std::find(sequence.begin(), sequence.end(), options.eot);
  return begin < end ? Sequence(begin, end) : Sequence();
}

void select_best(const std::vector<std::vector<Candidate>>& candidates, const DecodingOptions& options,
                 std::vector<DecodingResult>& results) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    std::vector<Sequence> decoded;
    std::vector<Ranked> ranked;
    for (const Candidate& candidate : candidates[i]) {
      decoded.push_back(decoded_tokens(candidate.tokens, options));
      ranked.push_back({decoded.back().size(), candidate.sum_logprob});
    }
    const std::size_t best = best_candidate(ranked, options.length_penalty);
    results[i].tokens = std::move(decoded[best]);
    results[i].sum_logprob = ranked[best].sum_logprob;
  }
}

}  // namespace

std::vector<DecodingResult> decode(const model::Whisper& whisper, const model::AudioMemory& memory,
                                   const std::vector<Sequence>& initial_tokens,
                                   const DecodingOptions& options, common::Control& control) {
  check_request(memory, initial_tokens, options);
  const at::NoGradGuard no_grad;
  std::vector<DecodingResult> results(initial_tokens.size());
  if (results.empty()) {
    return results;
  }
  const auto filters = make_logit_filters(options, whisper->decoder->token_embedding.device());
  const auto token_decoder = make_token_decoder(options, initial_tokens.size());
  const std::int64_t looks_at = token_decoder->looks_at();

  Inference inference(whisper, memory, /*drafts=*/looks_at > 0);
  const Inference::Prefill prefill = inference.prefill(initial_tokens, options.sot_index, control);
  if (options.no_speech >= 0) {
    read_no_speech_probs(prefill.at_sot, options.no_speech, results);
  }
  inference.expand_groups(options.n_group);
  std::vector<Sequence> sequences = repeat(initial_tokens, options.n_group);
  at::Tensor logits = prefill.last.repeat_interleave(options.n_group, 0);
  for (std::int64_t i = 1;; ++i) {
    for (const auto& mask : filters.masks) {
      mask->apply(logits, sequences);
    }
    inference.refine(logits, looks_at, options.timestamp_begin);
    if (filters.timestamp_probability) {
      filters.timestamp_probability->apply(logits, sequences);
    }
    const TokenDecoder::Update update = token_decoder->update(logits, sequences);
    control.step(common::Stage::kDecode, i);
    if (update.completed || i == options.sample_len ||
        static_cast<std::int64_t>(sequences.front().size()) > options.n_ctx) {
      break;
    }
    inference.reorder(update.sources);
    logits = inference.step(sequences);
  }
  select_best(token_decoder->finalize(sequences, options.n_group), options, results);
  return results;
}

}  // namespace torchwhisper::decoding
