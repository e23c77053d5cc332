#include "csrc/audio/load_audio.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "csrc/audio/resample.h"

namespace torchwhisper::audio {
namespace {

constexpr std::int64_t kBlockFrames = 16384;
constexpr std::int64_t kMaxReserve = std::int64_t{1} << 26;  // a header may promise anything
constexpr float kFullScale = 32768;

/// A sample of 16 bits as float.
float normalized(std::int32_t sample) { return static_cast<float>(sample) / kFullScale; }

template <typename Sample>
float quantized(Sample sample) {
  if constexpr (std::is_same_v<Sample, std::int16_t>) {
    return normalized(sample);
  } else {
    const Sample scaled = std::clamp<Sample>(sample * kFullScale, -kFullScale, kFullScale - 1);
    return normalized(static_cast<std::int32_t>(std::lrint(scaled)));
  }
}

template <typename Sample>
Sample mixed(Sample left, Sample right) {
  if constexpr (std::is_same_v<Sample, std::int16_t>) {
    return static_cast<std::int16_t>((left + right + 1) >> 1);
  } else {
    return left * Sample{0.5} + right * Sample{0.5};
  }
}

template <typename Sample>
void check_finite(std::span<const Sample> samples, std::int64_t first_frame, int channels) {
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (!std::isfinite(samples[i])) {
      throw std::invalid_argument(fmt::format("sample {} is {}, expected a finite number",
                                              first_frame + static_cast<std::int64_t>(i) / channels,
                                              samples[i]));
    }
  }
}

/// Interleaved frames in, 16-bit mono samples out. Channels are resampled first and mixed after it.
template <typename Sample>
class Downmix {
 public:
  Downmix(int channels, int from_rate, int to_rate, std::vector<float>& out)
      : channels_(channels), out_(out) {
    if (from_rate != to_rate) {
      resamplers_.assign(static_cast<std::size_t>(channels), Resampler<Sample>(from_rate, to_rate));
    }
    split_.resize(static_cast<std::size_t>(channels));
    converted_.resize(static_cast<std::size_t>(channels));
  }

  void push(std::span<const Sample> interleaved) {
    for (std::size_t channel = 0; channel < split_.size(); ++channel) {
      split_[channel].clear();
      for (std::size_t i = channel; i < interleaved.size(); i += split_.size()) {
        split_[channel].push_back(interleaved[i]);
      }
      if (!resamplers_.empty()) {
        converted_[channel].clear();
        resamplers_[channel].push(split_[channel], converted_[channel]);
      }
    }
    append(resamplers_.empty() ? split_ : converted_);
  }

  void finish() {
    for (std::size_t channel = 0; channel < resamplers_.size(); ++channel) {
      converted_[channel].clear();
      resamplers_[channel].finish(converted_[channel]);
    }
    if (!resamplers_.empty()) {
      append(converted_);
    }
  }

 private:
  void append(const std::vector<std::vector<Sample>>& parts) {
    for (std::size_t i = 0; i < parts[0].size(); ++i) {
      out_.push_back(quantized(channels_ == 1 ? parts[0][i] : mixed(parts[0][i], parts[1][i])));
    }
  }

  int channels_;
  std::vector<float>& out_;
  std::vector<Resampler<Sample>> resamplers_;
  std::vector<std::vector<Sample>> split_, converted_;  // one vector per channel
};

/// Reads blocks of FileSample until the file ends.
template <typename FileSample, typename Use>
void for_each_block(SoundFile& file, common::Control& control, const Use& use) {
  const int channels = file.info().channels;
  std::vector<FileSample> block(static_cast<std::size_t>(kBlockFrames * channels));
  std::int64_t frames = 0;
  while (const std::int64_t given = file.read(std::span(block))) {
    const std::span<const FileSample> samples(block.data(), static_cast<std::size_t>(given * channels));
    if constexpr (std::is_floating_point_v<FileSample>) {
      check_finite(samples, frames, channels);
    }
    use(samples);
    frames += given;
    control.step(common::Stage::kAudio, frames);
  }
}

template <typename Sample>
void decode(SoundFile& file, int sample_rate, common::Control& control, std::vector<float>& out) {
  Downmix<Sample> downmix(file.info().channels, file.info().sample_rate, sample_rate, out);
  for_each_block<Sample>(file, control, [&](std::span<const Sample> block) { downmix.push(block); });
  downmix.finish();
}

/// 24 and 32 bits: cut to 16 where nothing else is to be done, otherwise computed in float.
void decode_int32(SoundFile& file, int sample_rate, common::Control& control, std::vector<float>& out) {
  if (file.info().channels == 1 && file.info().sample_rate == sample_rate) {
    for_each_block<std::int32_t>(file, control, [&](std::span<const std::int32_t> block) {
      for (const std::int32_t sample : block) {
        out.push_back(normalized(sample >> 16));
      }
    });
    return;
  }
  constexpr float kInt32Scale = -static_cast<float>(std::numeric_limits<std::int32_t>::min());
  Downmix<float> downmix(file.info().channels, file.info().sample_rate, sample_rate, out);
  std::vector<float> scaled;
  for_each_block<std::int32_t>(file, control, [&](std::span<const std::int32_t> block) {
    scaled.resize(block.size());
    std::transform(block.begin(), block.end(), scaled.begin(),
                   [](std::int32_t sample) { return static_cast<float>(sample) / kInt32Scale; });
    downmix.push(scaled);
  });
  downmix.finish();
}

void check_supported(const SoundInfo& info) {
  if (!info.common_encoding) {
    throw UnsupportedSound(fmt::format("it holds {} audio", info.encoding));
  }
  if (info.channels > 2) {
    throw UnsupportedSound(fmt::format("it has {} channels", info.channels));
  }
  if (info.channels < 1 || !info.common_layout) {
    throw UnsupportedSound("its channels are not left and right");
  }
  if (info.sample_rate < 1 || info.sample_rate > kMaxSampleRate) {
    throw UnsupportedSound(fmt::format("its sample rate is {} Hz", info.sample_rate));
  }
}

}  // namespace

LoadedAudio load_audio(SoundFile file, int sample_rate, common::Control& control) {
  const SoundInfo& info = file.info();
  check_supported(info);
  LoadedAudio loaded;
  if (info.frames > 0) {
    const double expected = static_cast<double>(info.frames) * sample_rate / info.sample_rate;
    loaded.samples.reserve(
        static_cast<std::size_t>(std::min(expected + 1, static_cast<double>(kMaxReserve))));
  }
  switch (info.sample_type) {
    case SampleType::kInt16:
      decode<std::int16_t>(file, sample_rate, control, loaded.samples);
      break;
    case SampleType::kInt32:
      decode_int32(file, sample_rate, control, loaded.samples);
      break;
    case SampleType::kFloat32:
      decode<float>(file, sample_rate, control, loaded.samples);
      break;
    case SampleType::kFloat64:
      decode<double>(file, sample_rate, control, loaded.samples);
      break;
  }
  loaded.warning = file.doubt();
  return loaded;
}

LoadedAudio load_audio(const std::string& path, int sample_rate, common::Control& control) {
  return load_audio(SoundFile(path), sample_rate, control);
}

}  // namespace torchwhisper::audio
