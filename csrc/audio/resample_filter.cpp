#include "csrc/audio/resample_filter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <stdexcept>

namespace torchwhisper::audio {
namespace {

constexpr double kTapsAtUnity = 32;
constexpr double kCutoff = 0.97;
constexpr double kKaiserBeta = 9;
constexpr std::int64_t kMaxPhases = 1024;
constexpr std::int64_t kAlignment = 8;  // rows of whole vectors

/// Modified Bessel function of the first kind of order zero (std::cyl_bessel_i is not in every library).
double bessel_i0(double x) {
  const double quarter = x * x / 4;
  double term = 1;
  double sum = 1;
  for (int k = 1; term > sum * 1e-18; ++k) {
    term *= quarter / (static_cast<double>(k) * k);
    sum += term;
  }
  return sum;
}

double sinc(double x) { return x == 0 ? 1 : std::sin(x) / x; }

int checked(int rate) {
  if (rate < 1 || rate > kMaxSampleRate) {
    throw std::invalid_argument(
        fmt::format("the sample rate is {} Hz, expected 1 to {}", rate, kMaxSampleRate));
  }
  return rate;
}

}  // namespace

ResampleFilter::ResampleFilter(int from_rate, int to_rate) {
  const int common = std::gcd(checked(from_rate), checked(to_rate));
  up = to_rate / common;
  down = from_rate / common;
  phases = std::min(up, kMaxPhases);

  const double factor = std::min(1.0, kCutoff * to_rate / from_rate);
  taps = (static_cast<std::int64_t>(std::ceil(kTapsAtUnity / factor)) + 1) / 2 * 2;
  centre = taps / 2 - 1;
  width = (taps + 1 + kAlignment - 1) / kAlignment * kAlignment;

  rows.assign(static_cast<std::size_t>((phases + 1) * width), 0.0);
  for (std::int64_t phase = 0; phase < phases; ++phase) {
    fill_row(phase, factor);
  }
  // All rows are scaled by the first one's sum.
  const double gain = 1 / std::accumulate(rows.begin(), rows.begin() + taps, 0.0);
  for (double& tap : rows) {
    tap *= gain;
  }
  // One whole sample on, it is the first row again.
  std::copy_n(rows.begin(), taps, rows.begin() + phases * width + 1);
}

void ResampleFilter::fill_row(std::int64_t phase, double factor) {
  const double offset = static_cast<double>(phase) / static_cast<double>(phases);
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    const double distance = static_cast<double>(tap - centre) - offset;  // samples from the output's position
    const double relative = 2 * distance / static_cast<double>(taps);    // -1 to 1 under the window
    const double window = bessel_i0(kKaiserBeta * std::sqrt(std::max(1 - relative * relative, 0.0)));
    rows[static_cast<std::size_t>(phase * width + tap)] = sinc(std::numbers::pi * distance * factor) * window;
  }
}

}  // namespace torchwhisper::audio
