#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/decoding/options.h"

namespace torchwhisper::decoding {

/// A finished text and the sum of the log-probabilities of its decoded tokens.
struct Candidate {
  Sequence tokens;  // initial tokens included
  double sum_logprob = 0.0;
};

/// The most probable next tokens of one sequence, best first.
struct BestTokens {
  std::vector<std::int64_t> tokens;
  std::vector<float> logprobs;
};

/// Chooses the next tokens (whisper/decoding.py, TokenDecoder). One object serves one decode.
class TORCHWHISPER_API TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;

  struct Update {
    bool completed = false;  // nothing is left to decode
    std::vector<std::int64_t>
        sources;  // sequence i continues the old sequence sources[i]; empty: nothing moved
  };

  /// How many of a sequence's largest logits update() looks at, beside the sum of all; 0 for every one.
  virtual std::int64_t looks_at() const = 0;

  /// logits: [sequence, n_vocab] float32 after the filters. Appends one token to every sequence.
  virtual Update update(const at::Tensor& logits, std::vector<Sequence>& sequences) = 0;

  /// The candidates of every recording, `group` sequences to a recording.
  virtual std::vector<std::vector<Candidate>> finalize(const std::vector<Sequence>& sequences,
                                                       std::int64_t group) = 0;
};

/// The most probable token at temperature 0, a sampled one above. Sampling draws from torch's default
/// generator exactly as upstream does, so that one seed gives one text in both.
class TORCHWHISPER_API GreedyDecoder : public TokenDecoder {
 public:
  GreedyDecoder(double temperature, std::int64_t eot, std::size_t n_sequence);
  std::int64_t looks_at() const override { return temperature_ == 0.0 ? 1 : 0; }
  Update update(const at::Tensor& logits, std::vector<Sequence>& sequences) override;
  std::vector<std::vector<Candidate>> finalize(const std::vector<Sequence>& sequences,
                                               std::int64_t group) override;

 private:
  std::vector<BestTokens> choose(const at::Tensor& logits) const;
  at::Tensor sample(const at::Tensor& logits) const;

  double temperature_;
  std::int64_t eot_;
  std::vector<float> sum_logprobs_;
};

/// Beam search with patience (arXiv 2204.05424).
class TORCHWHISPER_API BeamSearchDecoder : public TokenDecoder {
 public:
  /// Throws ValueError where beam_size * patience rounds to nothing.
  BeamSearchDecoder(std::int64_t beam_size, double patience, std::int64_t eot, std::size_t n_audio);
  std::int64_t looks_at() const override { return beam_size_ + 1; }
  Update update(const at::Tensor& logits, std::vector<Sequence>& sequences) override;
  std::vector<std::vector<Candidate>> finalize(const std::vector<Sequence>& sequences,
                                               std::int64_t group) override;

 private:
  struct Extension {
    std::int64_t source;  // sequence that it continues
    std::int64_t token;
    float sum_logprob;
  };

  std::vector<Extension> ranked_extensions(std::int64_t audio, const std::vector<BestTokens>& best,
                                           const std::vector<Sequence>& sequences) const;
  void add_finished(std::size_t audio, std::vector<Candidate> finished);

  std::int64_t beam_size_;
  std::size_t max_candidates_;
  std::int64_t eot_;
  std::vector<float> sum_logprobs_;
  std::vector<std::vector<Candidate>> finished_;  // per recording, in the order in which they finished
};

/// The search that the options ask for, over `n_audio` recordings at once.
TORCHWHISPER_API std::unique_ptr<TokenDecoder> make_token_decoder(const DecodingOptions& options,
                                                                  std::size_t n_audio);

}  // namespace torchwhisper::decoding
