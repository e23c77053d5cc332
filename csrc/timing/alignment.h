#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"
#include "csrc/common/control.h"

namespace torchwhisper::timing {

struct AlignmentOptions {
  /// How many tokens of the start sequence come before <|notimestamps|>; their rows are left out.
  std::int64_t sot_length = 0;
  /// Encoder frames (20 ms) that hold audio; what the window has beyond them is padding.
  std::int64_t num_frames = 0;
  /// Width of the median filter in frames; odd.
  std::int64_t medfilt_width = 7;
  /// Factor on the attention scores before the softmax.
  double qk_scale = 1.0;
};

/// How strongly each text token attends to each frame, averaged over the heads.
///
/// qk: [head, token, frame] scores of the alignment heads over start sequence, <|notimestamps|>, text and
/// end token; the softmax is taken over the first num_frames frames.
/// Returns [token - sot_length - 1, min(frame, num_frames)]: the rows of <|notimestamps|> and of the text.
/// Throws ValueError if there is no head or too few tokens.
/// Source: whisper/timing.py find_alignment.
TORCHWHISPER_API at::Tensor alignment_matrix(const at::Tensor& qk, const AlignmentOptions& options,
                                             common::Control& control);

/// The time warping path through alignment_matrix(): int64 [2, length], row and frame of every step.
/// Without frames every row has frame -1.
TORCHWHISPER_API at::Tensor align(const at::Tensor& qk, const AlignmentOptions& options,
                                  common::Control& control);

/// The probability of each text token among the tokens below `eot`.
///
/// logits: [token, vocabulary] over the same tokens as qk. Throws IndexError for a text token that is not
/// below eot, ValueError if there are fewer rows than text tokens.
/// Source: whisper/timing.py find_alignment.
TORCHWHISPER_API std::vector<double> token_probabilities(const at::Tensor& logits,
                                                         const std::vector<std::int64_t>& text_tokens,
                                                         std::int64_t sot_length, std::int64_t eot);

}  // namespace torchwhisper::timing
