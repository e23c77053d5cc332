#include "csrc/audio/mel_filters.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "csrc/audio/load_audio.h"
#include "csrc/audio/mel.h"

namespace torchwhisper::audio {
namespace {

// Slaney's scale: linear up to 1 kHz, logarithmic above it.
constexpr double kHertzPerMel = 200.0 / 3;
constexpr double kLogStart = 1000;
constexpr double kLogStartMel = kLogStart / kHertzPerMel;
const double kLogStep = std::log(6.4) / 27;

double to_mel(double hertz) {
  return hertz < kLogStart ? hertz / kHertzPerMel : kLogStartMel + std::log(hertz / kLogStart) / kLogStep;
}

double to_hertz(double mel) {
  return mel < kLogStartMel ? mel * kHertzPerMel : kLogStart * std::exp(kLogStep * (mel - kLogStartMel));
}

}  // namespace

at::Tensor mel_filters(std::int64_t mels) {
  TORCH_CHECK_VALUE(mels >= 1, "the number of mels is ", mels, ", expected 1 or more");
  constexpr double kNyquist = kSampleRate / 2.0;
  std::vector<double> edges;  // filter i rises from edge i to i + 1 and falls to i + 2
  edges.reserve(static_cast<std::size_t>(mels + 2));
  for (std::int64_t i = 0; i < mels + 2; ++i) {
    edges.push_back(to_hertz(to_mel(kNyquist) * static_cast<double>(i) / static_cast<double>(mels + 1)));
  }
  const std::int64_t bins = kFftSize / 2 + 1;
  at::Tensor filters = at::zeros({mels, bins});
  float* value = filters.mutable_data_ptr<float>();
  for (std::size_t mel = 0; mel < static_cast<std::size_t>(mels); ++mel) {
    const double low = edges[mel];
    const double peak = edges[mel + 1];
    const double high = edges[mel + 2];
    for (std::int64_t bin = 0; bin < bins; ++bin) {
      const double hertz = kNyquist * static_cast<double>(bin) / static_cast<double>(bins - 1);
      const double height = std::min((hertz - low) / (peak - low), (high - hertz) / (high - peak));
      const auto rounded = static_cast<float>(std::max(height, 0.0));
      *value++ = static_cast<float>(rounded * (2 / (high - low)));
    }
  }
  return filters;
}

}  // namespace torchwhisper::audio
