#include "csrc/decoding/token_decoder.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "csrc/kernels/select.h"
#include "csrc/kernels/table.h"

namespace torchwhisper::decoding {
namespace {

bool ended(const Sequence& sequence, std::int64_t eot) { return sequence.back() == eot; }

std::vector<BestTokens> best_tokens_by_torch(const at::Tensor& logits, std::int64_t count) {
  const auto [values, indices] = at::log_softmax(logits, -1).topk(count);
  const at::Tensor logprobs = values.cpu();
  const at::Tensor tokens = indices.cpu();
  std::vector<BestTokens> best;
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    const std::int64_t* first_token = tokens.const_data_ptr<std::int64_t>() + row * count;
    const float* first_logprob = logprobs.const_data_ptr<float>() + row * count;
    best.push_back({{first_token, first_token + count}, {first_logprob, first_logprob + count}});
  }
  return best;
}

// Of one row; nothing where a number is none, or everything is forbidden.
std::optional<BestTokens> best_of_row(const float* values, std::int64_t n_vocab, std::int64_t count) {
  const auto ranked = kernels::largest(values, n_vocab, count);
  if (static_cast<std::int64_t>(ranked.size()) < count ||
      ranked.front().value < std::numeric_limits<float>::lowest()) {
    return std::nullopt;
  }
  const float total = kernels::kernels().log_sum_exp(values, n_vocab);
  BestTokens best;
  for (const kernels::Ranked& entry : ranked) {
    best.tokens.push_back(entry.index);
    best.logprobs.push_back(entry.value - total);
  }
  return best;
}

// The same, without a copy of all logits.
std::vector<BestTokens> best_tokens(const at::Tensor& logits, std::int64_t count) {
  if (!logits.is_cpu()) {
    return best_tokens_by_torch(logits, count);
  }
  std::vector<std::optional<BestTokens>> rows(static_cast<std::size_t>(logits.size(0)));
  const float* values = logits.const_data_ptr<float>();
  at::parallel_for(0, logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      rows[static_cast<std::size_t>(row)] =
          best_of_row(values + row * logits.stride(0), logits.size(1), count);
    }
  });
  std::vector<BestTokens> best;
  for (std::optional<BestTokens>& row : rows) {
    if (!row) {
      return best_tokens_by_torch(logits, count);
    }
    best.push_back(std::move(*row));
  }
  return best;
}

// Replaces the score of a candidate that is there already, as assignment to a Python dict does.
void assign(std::vector<Candidate>& candidates, Candidate candidate) {
  const auto same = std::find_if(candidates.begin(), candidates.end(),
                                 [&](const Candidate& other) { return other.tokens == candidate.tokens; });
  if (same == candidates.end()) {
    candidates.push_back(std::move(candidate));
  } else {
    same->sum_logprob = candidate.sum_logprob;
  }
}

}  // namespace

GreedyDecoder::GreedyDecoder(double temperature, std::int64_t eot, std::size_t n_sequence)
    : temperature_(temperature), eot_(eot), sum_logprobs_(n_sequence, 0.0F) {}

// torch.distributions.Categorical(logits=logits / temperature).sample(), operation by operation.
at::Tensor GreedyDecoder::sample(const at::Tensor& logits) const {
  const at::Tensor scaled = logits / temperature_;
  const at::Tensor normalized = scaled - scaled.logsumexp(-1, /*keepdim=*/true);
  return at::multinomial(at::softmax(normalized, -1), 1, /*replacement=*/true);
}

std::vector<BestTokens> GreedyDecoder::choose(const at::Tensor& logits) const {
  if (temperature_ == 0.0) {
    return best_tokens(logits, 1);
  }
  const at::Tensor sampled = sample(logits);
  const at::Tensor logprobs = at::log_softmax(logits, -1).gather(1, sampled).cpu();
  const at::Tensor tokens = sampled.cpu();
  std::vector<BestTokens> chosen;
  chosen.reserve(static_cast<std::size_t>(logits.size(0)));
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    chosen.push_back({{tokens.const_data_ptr<std::int64_t>()[row]}, {logprobs.const_data_ptr<float>()[row]}});
  }
  return chosen;
}

TokenDecoder::Update GreedyDecoder::update(const at::Tensor& logits, std::vector<Sequence>& sequences) {
  const std::vector<BestTokens> chosen = choose(logits);
  Update result{true, {}};
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    std::int64_t token = eot_;
    if (!ended(sequences[i], eot_)) {
      token = chosen[i].tokens.front();
      sum_logprobs_[i] += chosen[i].logprobs.front();
    }
    sequences[i].push_back(token);
    result.completed = result.completed && token == eot_;
  }
  return result;
}

std::vector<std::vector<Candidate>> GreedyDecoder::finalize(const std::vector<Sequence>& sequences,
                                                            std::int64_t group) {
  std::vector<std::vector<Candidate>> candidates(sequences.size() / static_cast<std::size_t>(group));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    Sequence tokens = sequences[i];
    tokens.push_back(eot_);
    candidates[i / static_cast<std::size_t>(group)].push_back({std::move(tokens), sum_logprobs_[i]});
  }
  return candidates;
}

BeamSearchDecoder::BeamSearchDecoder(std::int64_t beam_size, double patience, std::int64_t eot,
                                     std::size_t n_audio)
    : beam_size_(beam_size),
      // nearbyint rounds halves to even, as Python's round() does.
      max_candidates_(
          static_cast<std::size_t>(std::max(0.0, std::nearbyint(static_cast<double>(beam_size) * patience)))),
      eot_(eot),
      sum_logprobs_(n_audio * static_cast<std::size_t>(beam_size), 0.0F),
      finished_(n_audio) {
  TORCH_CHECK_VALUE(max_candidates_ > 0, "Invalid beam size (", beam_size, ") or patience (", patience, ")");
}

// All continuations of one recording's beams, best first. Beams that are alike (all of them at the first
// step) give each continuation once.
std::vector<BeamSearchDecoder::Extension> BeamSearchDecoder::ranked_extensions(
    std::int64_t audio, const std::vector<BestTokens>& best, const std::vector<Sequence>& sequences) const {
  std::vector<Extension> extensions;
  std::map<std::pair<Sequence, std::int64_t>, std::size_t> known;
  for (std::int64_t beam = 0; beam < beam_size_; ++beam) {
    const std::int64_t row = audio * beam_size_ + beam;
    const BestTokens& of_beam = best[static_cast<std::size_t>(row)];
    for (std::size_t k = 0; k < of_beam.tokens.size(); ++k) {
      const std::int64_t token = of_beam.tokens[k];
      const Extension extension{row, token,
                                sum_logprobs_[static_cast<std::size_t>(row)] + of_beam.logprobs[k]};
      const auto [place, is_new] =
          known.try_emplace({sequences[static_cast<std::size_t>(row)], token}, extensions.size());
      if (is_new) {
        extensions.push_back(extension);
      } else {
        extensions[place->second] = extension;
      }
    }
  }
  std::stable_sort(extensions.begin(), extensions.end(),
                   [](const Extension& a, const Extension& b) { return a.sum_logprob > b.sum_logprob; });
  return extensions;
}

void BeamSearchDecoder::add_finished(std::size_t audio, std::vector<Candidate> finished) {
  for (Candidate& candidate : finished) {
    if (finished_[audio].size() >= max_candidates_) {
      return;
    }
    assign(finished_[audio], std::move(candidate));
  }
}

TokenDecoder::Update BeamSearchDecoder::update(const at::Tensor& logits, std::vector<Sequence>& sequences) {
  const std::vector<BestTokens> best = best_tokens(logits, beam_size_ + 1);
  std::vector<Sequence> continued;
  std::vector<float> sum_logprobs;
  Update result{true, {}};
  for (std::size_t audio = 0; audio < finished_.size(); ++audio) {
    std::vector<Candidate> finished;
    std::int64_t saved = 0;
    for (const Extension& extension : ranked_extensions(static_cast<std::int64_t>(audio), best, sequences)) {
      Sequence sequence = sequences[static_cast<std::size_t>(extension.source)];
      sequence.push_back(extension.token);
      if (extension.token == eot_) {
        finished.push_back({std::move(sequence), extension.sum_logprob});
        continue;
      }
      continued.push_back(std::move(sequence));
      sum_logprobs.push_back(extension.sum_logprob);
      result.sources.push_back(extension.source);
      if (++saved == beam_size_) {
        break;
      }
    }
    add_finished(audio, std::move(finished));
    result.completed = result.completed && finished_[audio].size() >= max_candidates_;
  }
  sequences = std::move(continued);
  sum_logprobs_ = std::move(sum_logprobs);
  return result;
}

std::vector<std::vector<Candidate>> BeamSearchDecoder::finalize(const std::vector<Sequence>& sequences,
                                                                std::int64_t group) {
  for (std::size_t audio = 0; audio < finished_.size(); ++audio) {
    const std::size_t first = audio * static_cast<std::size_t>(group);
    std::vector<std::size_t> order(static_cast<std::size_t>(group));
    std::iota(order.begin(), order.end(), first);
    // Ascending and then backwards, as upstream: of equal scores the later one comes first.
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return sum_logprobs_[a] < sum_logprobs_[b]; });
    for (auto i = order.rbegin(); i != order.rend(); ++i) {
      if (finished_[audio].size() >= static_cast<std::size_t>(beam_size_)) {
        break;
      }
      Sequence tokens = sequences[*i];
      tokens.push_back(eot_);
      assign(finished_[audio], {std::move(tokens), sum_logprobs_[*i]});
    }
  }
  return finished_;
}

std::unique_ptr<TokenDecoder> make_token_decoder(const DecodingOptions& options, std::size_t n_audio) {
  if (options.beam_size > 0) {
    return std::make_unique<BeamSearchDecoder>(options.beam_size, options.patience, options.eot, n_audio);
  }
  return std::make_unique<GreedyDecoder>(options.temperature, options.eot,
                                         n_audio * static_cast<std::size_t>(options.n_group));
}

}  // namespace torchwhisper::decoding
