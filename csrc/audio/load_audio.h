#pragma once

#include <string>
#include <vector>

#include "csrc/audio/sound_file.h"
#include "csrc/common/api.h"
#include "csrc/common/control.h"

namespace torchwhisper::audio {

/// What Whisper was trained on.
inline constexpr int kSampleRate = 16000;

struct LoadedAudio {
  std::vector<float> samples;  ///< mono, multiples of 1/32768 in [-1, 1)
  std::string warning;         ///< why the file may hold more than this; empty if it does not
};

/// Decodes, resamples and mixes down a sound file to the samples that openai-whisper gets from
/// `ffmpeg -f s16le -ac 1 -ar sample_rate`: 16-bit integers over 32768.
///
/// Steps `control` per block with the frames decoded. Throws SoundError where the file cannot be read,
/// UnsupportedSound where libsndfile does not know it or we would decode it differently (more than two
/// channels, Opus, ADPCM, ...), and std::invalid_argument on samples that are not finite.
/// Source: whisper/audio.py load_audio.
TORCHWHISPER_API LoadedAudio load_audio(const std::string& path, int sample_rate, common::Control& control);
TORCHWHISPER_API LoadedAudio load_audio(SoundFile file, int sample_rate, common::Control& control);

}  // namespace torchwhisper::audio
