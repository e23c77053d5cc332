#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace torchwhisper::decoding {

/// One candidate text: every token so far, the initial ones included.
using Sequence = std::vector<std::int64_t>;

/// What one decode needs to know, in token ids: languages, tasks and texts are resolved by the caller
/// (whisper/decoding.py, DecodingOptions and DecodingTask).
struct DecodingOptions {
  std::int64_t n_group = 1;       // candidates per recording: beams, or samples of best_of
  std::int64_t sample_len = 224;  // most tokens to decode
  std::int64_t n_ctx = 448;       // most tokens of a sequence
  std::int64_t sot_index = 0;     // where <|startoftranscript|> stands among the initial tokens
  std::int64_t sample_begin = 0;  // number of initial tokens
  std::int64_t eot = 0;           // <|endoftext|>
  std::int64_t no_speech = -1;    // <|nospeech|>, or -1

  double temperature = 0.0;    // 0: the most probable token; above: sampling
  std::int64_t beam_size = 0;  // 0: no beam search
  double patience = 1.0;       // beam search ends after round(beam_size * patience) finished candidates
  std::optional<double> length_penalty;  // alpha of the GNMT paper; none: divide by the length

  std::vector<std::int64_t> suppress_tokens;  // never decoded
  std::vector<std::int64_t> suppress_blank;   // not decoded as the first token

  std::int64_t timestamp_begin = -1;              // <|0.00|>, or -1 for no timestamp rules
  std::int64_t no_timestamps = -1;                // <|notimestamps|>
  std::int64_t max_initial_timestamp_index = -1;  // the first timestamp is at most this one; -1: any
};

}  // namespace torchwhisper::decoding
