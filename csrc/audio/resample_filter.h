#pragma once

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"

namespace torchwhisper::audio {

/// Rates beyond this are refused: the filter grows with the ratio of the rates.
inline constexpr int kMaxSampleRate = 1'536'000;

/// The polyphase low-pass filter between two sample rates: a sinc of 32 taps at unity (proportionally more
/// when the rate falls) cut off at 0.97 of the lower rate's band, under a Kaiser window with beta 9.
/// This is what ffmpeg's manual documents as the defaults of its resampler.
///
/// Output sample m lies at input position m * down / up. Its phase is the fractional part: every value of
/// it has a row of its own while `up` is at most 1024; beyond that two of 1024 rows are interpolated.
struct TORCHWHISPER_API ResampleFilter {
  /// Throws std::invalid_argument for a rate below 1 or above kMaxSampleRate.
  ResampleFilter(int from_rate, int to_rate);

  bool interpolates() const { return phases != up; }
  const double* row(std::int64_t phase) const { return rows.data() + phase * width; }

  std::int64_t up = 1;      ///< to_rate / gcd
  std::int64_t down = 1;    ///< from_rate / gcd
  std::int64_t phases = 1;  ///< rows, but for the one after the last that interpolation needs
  std::int64_t taps = 0;
  std::int64_t centre = 0;   ///< the tap that lies on the sample at or before the output's position
  std::int64_t width = 0;    ///< taps of a row in memory: more than `taps`, the rest is zero
  std::vector<double> rows;  // [phases + 1, width]

 private:
  void fill_row(std::int64_t phase, double factor);
};

}  // namespace torchwhisper::audio
