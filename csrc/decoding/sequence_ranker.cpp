#include "csrc/decoding/sequence_ranker.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

namespace torchwhisper::decoding {
namespace {

double score(const Ranked& candidate, std::optional<double> length_penalty) {
  const auto length = static_cast<double>(candidate.length);
  if (length_penalty) {
    return candidate.sum_logprob / std::pow((5.0 + length) / 6.0, *length_penalty);
  }
  return candidate.sum_logprob / std::max(length, 1.0);
}

}  // namespace

std::size_t best_candidate(const std::vector<Ranked>& candidates, std::optional<double> length_penalty) {
  TORCH_INTERNAL_ASSERT(!candidates.empty());
  std::size_t best = 0;
  for (std::size_t i = 1; i < candidates.size(); ++i) {
    if (score(candidates[i], length_penalty) > score(candidates[best], length_penalty)) {
      best = i;
    }
  }
  return best;
}

}  // namespace torchwhisper::decoding
