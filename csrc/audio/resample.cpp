#include "csrc/audio/resample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <type_traits>

namespace torchwhisper::audio {
namespace {

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();
constexpr int kFixedPointBits = 15;
constexpr std::size_t kLanes = 8;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// How many mirrored samples follow the last one, and how many outputs there are in all.
struct Ending {
  std::int64_t mirrored = 0;
  std::int64_t outputs = 0;
};

Ending ending(std::int64_t samples, const ResampleFilter& filter) {
  std::int64_t unused = samples;  // samples that outputs within the signal do not reach beyond
  if (samples > filter.taps) {
    const std::int64_t inner =
        divide_up((samples - filter.taps + filter.centre + 1) * filter.up, filter.down);
    unused = samples - inner * filter.down / filter.up + filter.centre;
  }
  const std::int64_t mirrored = (unused + 1) / 2;
  if (samples + mirrored <= filter.taps) {
    return {};
  }
  const std::int64_t positions = samples + mirrored + filter.centre - filter.taps + 1;
  return {mirrored, divide_up(positions * filter.up, filter.down)};
}

template <typename Sample>
Sample to_tap(double tap) {
  if constexpr (std::is_same_v<Sample, std::int16_t>) {
    return static_cast<std::int16_t>(std::clamp<long>(std::lrint(std::ldexp(tap, kFixedPointBits)),
                                                      std::numeric_limits<std::int16_t>::min(),
                                                      std::numeric_limits<std::int16_t>::max()));
  } else {
    return static_cast<Sample>(tap);
  }
}

/// Sums in eight lanes, which compilers turn into vectors, and folds them in halves.
template <typename Sample, typename MultiplyAdd>
inline Sample dot_in_lanes(const Sample* a, const Sample* b, std::int64_t count,
                           const MultiplyAdd& multiply_add) {
  std::array<Sample, kLanes> lanes{};
  for (std::int64_t i = 0; i < count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto index = static_cast<std::size_t>(i) + lane;
      lanes[lane] = multiply_add(a[index], b[index], lanes[lane]);
    }
  }
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) {
      lanes[lane] += lanes[lane + half];
    }
  }
  return lanes[0];
}

template <typename Sample>
Sample dot_plain(const Sample* a, const Sample* b, std::int64_t count) {
  return dot_in_lanes(a, b, count, [](Sample x, Sample y, Sample sum) { return sum + x * y; });
}

#if defined(__x86_64__) && defined(__GNUC__)
/// With fused multiply-adds, as ffmpeg computes where the processor has them.
__attribute__((target("avx2,fma"))) float dot_fused(const float* a, const float* b, std::int64_t count) {
  return dot_in_lanes(a, b, count, [](float x, float y, float sum) { return std::fma(x, y, sum); });
}

bool has_fused() noexcept {
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
}

const auto best_dot = has_fused() ? &dot_fused : &dot_plain<float>;
#else
constexpr auto best_dot = &dot_plain<float>;
#endif

double dot(const double* a, const double* b, std::int64_t count, std::int64_t /*centre*/) {
  return dot_plain(a, b, count);
}

float dot(const float* a, const float* b, std::int64_t count, std::int64_t /*centre*/) {
  return best_dot(a, b, count);
}

/// All taps of the loudest signals overflow 32 bits, those on one side of the centre cannot.
std::int64_t dot(const std::int16_t* a, const std::int16_t* b, std::int64_t count, std::int64_t centre) {
  const auto part = [&](std::int64_t from, std::int64_t to) {
    std::int32_t sum = 0;
    for (std::int64_t i = from; i < to; ++i) {
      sum += a[i] * b[i];
    }
    return std::int64_t{sum};
  };
  return part(0, centre) + part(centre, count);
}

std::int16_t round_fixed_point(std::int64_t sum) {
  const std::int64_t rounded = (sum + (1 << (kFixedPointBits - 1))) >> kFixedPointBits;
  return static_cast<std::int16_t>(std::clamp<std::int64_t>(rounded, std::numeric_limits<std::int16_t>::min(),
                                                            std::numeric_limits<std::int16_t>::max()));
}

}  // namespace

template <typename Sample>
Resampler<Sample>::Resampler(int from_rate, int to_rate) : design_(from_rate, to_rate) {
  rows_.reserve(design_.rows.size());
  std::transform(design_.rows.begin(), design_.rows.end(), std::back_inserter(rows_), to_tap<Sample>);
  design_.rows = {};
}

template <typename Sample>
void Resampler<Sample>::push(std::span<const Sample> samples, std::vector<Sample>& out) {
  pending_.insert(pending_.end(), samples.begin(), samples.end());
  received_ += static_cast<std::int64_t>(samples.size());
  if (!started_ && received_ <= design_.taps) {
    return;
  }
  start();
  run(out, kUnlimited);
  const std::int64_t used = std::min(next_, static_cast<std::int64_t>(pending_.size()));
  pending_.erase(pending_.begin(), pending_.begin() + used);
  next_ -= used;
}

template <typename Sample>
void Resampler<Sample>::finish(std::vector<Sample>& out) {
  const Ending end = ending(received_, design_);
  if (end.outputs == 0) {
    return;
  }
  start();
  const std::int64_t last = static_cast<std::int64_t>(pending_.size()) - 1;
  for (std::int64_t i = 0; i < end.mirrored; ++i) {
    pending_.push_back(pending_[static_cast<std::size_t>(last - i)]);
  }
  pending_.resize(pending_.size() + static_cast<std::size_t>(design_.width));  // under the zeros of the rows
  run(out, end.outputs);
}

/// Mirrors the first samples to the left of the first one.
template <typename Sample>
void Resampler<Sample>::start() {
  if (started_) {
    return;
  }
  started_ = true;
  const std::vector<Sample> mirrored(pending_.rend() - 1 - design_.centre, pending_.rend() - 1);
  pending_.insert(pending_.begin(), mirrored.begin(), mirrored.end());
}

template <typename Sample>
void Resampler<Sample>::run(std::vector<Sample>& out, std::int64_t limit) {
  const std::int64_t step = design_.down / design_.up;
  const std::int64_t step_fraction = design_.down % design_.up;
  const std::int64_t last = static_cast<std::int64_t>(pending_.size()) - design_.width;
  while (next_ <= last && produced_ < limit) {
    out.push_back(filter(pending_.data() + next_));
    ++produced_;
    next_ += step;
    fraction_ += step_fraction;
    if (fraction_ >= design_.up) {
      fraction_ -= design_.up;
      ++next_;
    }
  }
}

template <typename Sample>
Sample Resampler<Sample>::filter(const Sample* samples) const {
  const std::int64_t scaled = fraction_ * design_.phases;  // in 1 / up rows
  const std::int64_t between = scaled % design_.up;
  const Sample* row = rows_.data() + scaled / design_.up * design_.width;
  auto sum = dot(row, samples, design_.width, design_.centre + 1);
  if (design_.interpolates()) {
    const auto next = dot(row + design_.width, samples, design_.width, design_.centre + 1);
    if constexpr (std::is_same_v<Sample, std::int16_t>) {
      sum += (next - sum) * between / design_.up;
    } else {
      sum += (next - sum) * (static_cast<Sample>(between) / static_cast<Sample>(design_.up));
    }
  }
  if constexpr (std::is_same_v<Sample, std::int16_t>) {
    return round_fixed_point(sum);
  } else {
    return sum;
  }
}

template class Resampler<std::int16_t>;
template class Resampler<float>;
template class Resampler<double>;

std::int64_t resampled_length(std::int64_t samples, int from_rate, int to_rate) {
  return ending(samples, ResampleFilter(from_rate, to_rate)).outputs;
}

std::vector<float> resample(std::span<const float> samples, int from_rate, int to_rate) {
  Resampler<float> resampler(from_rate, to_rate);
  std::vector<float> out;
  resampler.push(samples, out);
  resampler.finish(out);
  return out;
}

}  // namespace torchwhisper::audio
