#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/audio/resample_filter.h"
#include "csrc/common/api.h"

namespace torchwhisper::audio {

/// Converts one channel from one sample rate to another, in pieces of any length.
///
/// Sample is float, double, or std::int16_t, which is filtered with 15-bit taps, rounded and saturated as
/// fixed-point resamplers do. The ends are mirrored. Lengths and values follow ffmpeg's resampler: about
/// samples * to_rate / from_rate (resampled_length), nothing for less than two thirds of a filter.
template <typename Sample>
class TORCHWHISPER_API Resampler {
 public:
  /// Rates in Hz, 1 to kMaxSampleRate; otherwise std::invalid_argument.
  Resampler(int from_rate, int to_rate);

  /// Appends to `out` what can be computed by now.
  void push(std::span<const Sample> samples, std::vector<Sample>& out);
  /// Appends the rest. Nothing may be pushed after it.
  void finish(std::vector<Sample>& out);

 private:
  void start();
  void run(std::vector<Sample>& out, std::int64_t limit);
  Sample filter(const Sample* samples) const;

  ResampleFilter design_;
  std::vector<Sample> rows_;     // [phases + 1, width], the filter's taps as Samples
  std::vector<Sample> pending_;  // the samples that outputs to come look at
  std::int64_t next_ = 0;        // index into pending_ of the first tap of the next output
  std::int64_t fraction_ = 0;    // of the next output's position, in 1 / up samples
  std::int64_t received_ = 0;
  std::int64_t produced_ = 0;
  bool started_ = false;
};

/// The number of samples that `samples` become.
TORCHWHISPER_API std::int64_t resampled_length(std::int64_t samples, int from_rate, int to_rate);

/// Converts a whole channel.
TORCHWHISPER_API std::vector<float> resample(std::span<const float> samples, int from_rate, int to_rate);

}  // namespace torchwhisper::audio
