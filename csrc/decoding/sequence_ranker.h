#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "csrc/common/api.h"

namespace torchwhisper::decoding {

/// The number of decoded tokens of a candidate, <|endoftext|> not counted, and its score.
struct Ranked {
  std::size_t length;
  double sum_logprob;
};

/// The index of the candidate with the highest log-probability per token, or, with a length penalty alpha,
/// per
/// ((5 + length) / 6)^alpha (whisper/decoding.py, MaximumLikelihoodRanker; arXiv 1609.08144). The first one
/// of equals. A candidate without tokens counts as one token long.
TORCHWHISPER_API std::size_t best_candidate(const std::vector<Ranked>& candidates,
                                            std::optional<double> length_penalty);

}  // namespace torchwhisper::decoding
