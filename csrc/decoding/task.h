#pragma once

#include <vector>

#include "csrc/common/api.h"
#include "csrc/common/control.h"
#include "csrc/decoding/options.h"
#include "csrc/decoding/result.h"
#include "csrc/model/whisper.h"

namespace torchwhisper::decoding {

/// Decodes windows of 30 seconds (whisper/decoding.py, DecodingTask.run).
///
/// memory: the windows' features, from the decoder's remember(); initial_tokens: one sequence per recording,
/// all of options.sample_begin tokens. Returns the best candidate of every recording. Reports Stage::kDecode
/// per token. Throws ValueError where the sizes do not fit, Cancelled after control.cancel().
TORCHWHISPER_API std::vector<DecodingResult> decode(const model::Whisper& whisper,
                                                    const model::AudioMemory& memory,
                                                    const std::vector<Sequence>& initial_tokens,
                                                    const DecodingOptions& options, common::Control& control);

}  // namespace torchwhisper::decoding
