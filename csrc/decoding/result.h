#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace torchwhisper::decoding {

/// The best candidate for one recording.
struct DecodingResult {
  std::vector<std::int64_t> tokens;  // what was decoded, without <|endoftext|>
  double sum_logprob = 0.0;          // natural log, <|endoftext|> included
  double no_speech_prob = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace torchwhisper::decoding
