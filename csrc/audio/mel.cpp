#include "csrc/audio/mel.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/hann_window.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stft.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace torchwhisper::audio {
namespace {

constexpr std::int64_t kBlockFrames = 3000;
constexpr float kTooLarge = 1e15F;  // beyond it the energies overflow float32
constexpr double kSmallestEnergy = 1e-10;
constexpr float kDynamicRange = 8;

/// One channel followed by zeros and mirrored at both ends, without a copy of it.
class PaddedSignal {
 public:
  PaddedSignal(const float* samples, std::int64_t count, std::int64_t padding)
      : samples_(samples), count_(count), total_(count + padding) {}

  /// Copies [begin, begin + length) to target; begin counts from the first sample and may be negative.
  void copy(std::int64_t begin, std::int64_t length, float* target) const {
    const std::int64_t inner_begin = std::clamp<std::int64_t>(begin, 0, count_);
    const std::int64_t inner_end = std::clamp<std::int64_t>(begin + length, inner_begin, count_);
    for (std::int64_t i = begin; i < std::min(begin + length, inner_begin); ++i) {
      *target++ = at(i);
    }
    target = std::copy(samples_ + inner_begin, samples_ + inner_end, target);
    for (std::int64_t i = std::max(begin, inner_end); i < begin + length; ++i) {
      *target++ = at(i);
    }
  }

 private:
  float at(std::int64_t index) const {
    const std::int64_t mirrored = index < 0 ? -index : index >= total_ ? 2 * (total_ - 1) - index : index;
    return mirrored < count_ ? samples_[mirrored] : 0.0F;
  }

  const float* samples_;
  std::int64_t count_;
  std::int64_t total_;
};

/// Log energies of the frames [first, first + count): [mels, count].
at::Tensor log_energies(const PaddedSignal& signal, std::int64_t first, std::int64_t count,
                        const at::Tensor& filters, const at::Tensor& window) {
  const std::int64_t length = (count - 1) * kHopLength + kFftSize;
  const at::Tensor segment = at::empty({length}, filters.options());
  signal.copy(first * kHopLength - kFftSize / 2, length, segment.mutable_data_ptr<float>());
  const at::Tensor spectrum =
      at::stft(segment, kFftSize, kHopLength, kFftSize, window, /*center=*/false, "reflect",
               /*normalized=*/false, /*onesided=*/true, /*return_complex=*/true);
  const at::Tensor energies = spectrum.abs().pow_(2);  // [201, count]
  return at::matmul(filters, energies).clamp_min_(kSmallestEnergy).log10_();
}

void check(const at::Tensor& audio, const at::Tensor& filters, std::int64_t padding) {
  TORCH_CHECK_VALUE(audio.dim() == 1 || audio.dim() == 2, "the audio has shape ", audio.sizes(),
                    ", expected (samples,) or (batch, samples)");
  TORCH_CHECK_TYPE(audio.scalar_type() == at::kFloat && audio.device().is_cpu(), "the audio is ",
                   audio.scalar_type(), " on ", audio.device(), ", expected float32 on the cpu");
  TORCH_CHECK_VALUE(filters.dim() == 2 && filters.size(1) == kFftSize / 2 + 1, "the filters have shape ",
                    filters.sizes(), ", expected (mels, ", kFftSize / 2 + 1, ")");
  TORCH_CHECK_TYPE(filters.scalar_type() == at::kFloat && filters.device().is_cpu(), "the filters are ",
                   filters.scalar_type(), " on ", filters.device(), ", expected float32 on the cpu");
  TORCH_CHECK_VALUE(padding >= 0, "padding is ", padding, ", expected 0 or more samples");
  TORCH_CHECK_VALUE(audio.dim() == 1 || audio.size(0) > 0, "the batch is empty");
  TORCH_CHECK(audio.size(-1) + padding > kFftSize / 2, "the audio has ", audio.size(-1) + padding,
              " samples, expected more than ", kFftSize / 2, ": pad it, with padding= for instance");
}

void check_samples(const at::Tensor& audio) {
  const std::int64_t bad = first_unusable_sample(audio);
  if (bad < 0) {
    return;
  }
  const std::int64_t row = bad / audio.size(-1);
  const std::int64_t column = bad % audio.size(-1);
  const std::string where =
      audio.dim() == 1 ? fmt::format("{}", column) : fmt::format("[{}, {}]", row, column);
  TORCH_CHECK_VALUE(false, "audio sample ", where, " is ", audio.const_data_ptr<float>()[bad],
                    ", expected a finite number, usually between -1 and 1");
}

}  // namespace

std::int64_t first_unusable_sample(const at::Tensor& audio) {
  const at::Tensor flat = audio.contiguous();
  const float* samples = flat.const_data_ptr<float>();
  const std::int64_t count = flat.numel();
  for (std::int64_t begin = 0; begin < count; begin += kBlockFrames) {
    const std::int64_t end = std::min(begin + kBlockFrames, count);
    std::int64_t unusable = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      unusable += static_cast<std::int64_t>(!(std::abs(samples[i]) < kTooLarge));  // true for NaN
    }
    for (std::int64_t i = begin; unusable > 0; ++i) {
      if (!(std::abs(samples[i]) < kTooLarge)) {
        return i;
      }
    }
  }
  return -1;
}

at::Tensor log_mel_spectrogram(const at::Tensor& audio, const at::Tensor& filters, std::int64_t padding,
                               common::Control& control) {
  check(audio, filters, padding);
  const at::Tensor batch = (audio.dim() == 1 ? audio.unsqueeze(0) : audio).contiguous();
  check_samples(audio.dim() == 1 ? batch[0] : batch);
  const at::Tensor window = at::hann_window(kFftSize, filters.options());
  const std::int64_t samples = batch.size(1);
  const std::int64_t frames = (samples + padding) / kHopLength;
  const at::Tensor result = at::empty({batch.size(0), filters.size(0), frames}, filters.options());

  float largest = -std::numeric_limits<float>::infinity();
  std::int64_t done = 0;
  for (std::int64_t row = 0; row < batch.size(0); ++row) {
    const PaddedSignal signal(batch.const_data_ptr<float>() + row * samples, samples, padding);
    for (std::int64_t first = 0; first < frames; first += kBlockFrames) {
      const std::int64_t count = std::min(kBlockFrames, frames - first);
      const at::Tensor block = log_energies(signal, first, count, filters, window);
      largest = std::max(largest, block.max().item<float>());
      result[row].narrow(1, first, count).copy_(block);
      done += count;
      control.step(common::Stage::kAudio, done);
    }
  }
  result.clamp_min_(largest - kDynamicRange).add_(4).div_(4);
  return audio.dim() == 1 ? result[0] : result;
}

}  // namespace torchwhisper::audio
