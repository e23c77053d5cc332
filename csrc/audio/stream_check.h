#pragma once

#include <cstdint>
#include <string>

#include "csrc/audio/byte_source.h"
#include "csrc/common/api.h"

namespace torchwhisper::audio {

/// Why libsndfile does not read all of an MP3 file: it stops where the index says so, also where the frames
/// go on (files put together), and without an index after `limit` samples, guessed from the first frame.
/// Empty if nothing is left out.
TORCHWHISPER_API std::string mpeg_doubt(ByteSource& bytes, std::int64_t limit);

/// Why libsndfile does not read all of an OGG file: it stops after the first of several streams.
/// Empty if there is one stream and its last page.
TORCHWHISPER_API std::string ogg_doubt(ByteSource& bytes);

}  // namespace torchwhisper::audio
