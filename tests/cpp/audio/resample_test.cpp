#include "csrc/audio/resample.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>

namespace torchwhisper::audio {
namespace {

template <typename Sample>
std::vector<Sample> tone(double hertz, int rate, std::size_t samples, double amplitude) {
  std::vector<Sample> result(samples);
  for (std::size_t i = 0; i < samples; ++i) {
    const double phase = 2 * std::numbers::pi * hertz * static_cast<double>(i) / rate;
    result[i] = static_cast<Sample>(std::lround(amplitude * std::sin(phase) * 32768) / 32768.0 *
                                    (std::is_integral_v<Sample> ? 32768 : 1));
  }
  return result;
}

template <typename Sample>
std::vector<Sample> convert(std::span<const Sample> samples, int from, int to, std::size_t piece) {
  Resampler<Sample> resampler(from, to);
  std::vector<Sample> out;
  for (std::size_t i = 0; i < samples.size(); i += piece) {
    resampler.push(samples.subspan(i, std::min(piece, samples.size() - i)), out);
  }
  resampler.finish(out);
  return out;
}

class Rates : public testing::TestWithParam<int> {};

TEST_P(Rates, KeepAToneInTheBand) {
  const int rate = GetParam();
  const auto out = resample(tone<float>(440, rate, static_cast<std::size_t>(rate), 0.5), rate, 16000);
  const auto expected = tone<float>(440, 16000, 16000, 0.5);
  ASSERT_EQ(out.size(), expected.size());
  for (std::size_t i = 200; i < out.size() - 200; ++i) {
    ASSERT_NEAR(out[i], expected[i], 2e-4) << i;
  }
}

TEST_P(Rates, GiveTheSameInPiecesOfAnyLength) {
  const int rate = GetParam();
  const auto samples = tone<float>(1234, rate, 3000, 0.3);
  const auto whole = resample(samples, rate, 16000);
  for (const std::size_t piece : {1, 33, 999, 3000}) {
    EXPECT_EQ(convert<float>(samples, rate, 16000, piece), whole) << piece;
  }
  const auto integers = tone<std::int16_t>(1234, rate, 3000, 0.3);
  EXPECT_EQ(convert<std::int16_t>(integers, rate, 16000, 1),
            convert<std::int16_t>(integers, rate, 16000, 3000));
}

TEST_P(Rates, FixedPointFollowsFloatingPoint) {
  const int rate = GetParam();
  const auto exact = convert<double>(tone<double>(700, rate, 5000, 0.9), rate, 16000, 512);
  const auto fixed = convert<std::int16_t>(tone<std::int16_t>(700, rate, 5000, 0.9), rate, 16000, 512);
  ASSERT_EQ(fixed.size(), exact.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    ASSERT_NEAR(fixed[i], exact[i] * 32768, 10) << i;  // rounded taps
  }
}

INSTANTIATE_TEST_SUITE_P(Resample, Rates, testing::Values(8000, 11025, 22050, 44100, 48000, 96000, 44101));

TEST(Resample, RemovesAToneAboveTheBand) {
  for (const int rate : {32000, 44100, 48000, 96000}) {
    const auto out = resample(tone<float>(11000, rate, static_cast<std::size_t>(rate), 0.5), rate, 16000);
    for (std::size_t i = 200; i < out.size() - 200; ++i) {
      ASSERT_NEAR(out[i], 0, 2e-4) << rate << " Hz, " << i;
    }
  }
}

TEST(Resample, SaturatesInsteadOfWrapping) {
  std::vector<std::int16_t> square(4000);
  for (std::size_t i = 0; i < square.size(); ++i) {
    square[i] = (i / 3) % 2 == 0 ? std::int16_t{32767} : std::int16_t{-32768};
  }
  const auto out = convert<std::int16_t>(square, 8000, 16000, 4000);
  std::size_t saturated = 0;
  for (std::size_t i = 0; i < square.size(); ++i) {
    EXPECT_NEAR(out[2 * i], square[i], 1);  // every other output lies on an input
    saturated += static_cast<std::size_t>(out[2 * i + 1] == 32767 || out[2 * i + 1] == -32768);
  }
  EXPECT_GT(saturated, 0U);
}

TEST(Resample, SurvivesTheLoudestSignals) {
  std::mt19937 random(0);
  std::vector<std::int16_t> noise(20000);
  std::vector<double> exact_noise;
  for (std::int16_t& sample : noise) {
    sample = random() % 2 == 0 ? std::int16_t{32767} : std::int16_t{-32768};
    exact_noise.push_back(sample);
  }
  const auto fixed = convert<std::int16_t>(noise, 8000, 16000, 4000);
  const auto exact = convert<double>(exact_noise, 8000, 16000, 4000);
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    ASSERT_NEAR(fixed[i], std::clamp(exact[i], -32768.0, 32767.0), 20) << i;
  }
}

TEST(Resample, GivesTheLengthThatItPromises) {
  for (const int rate : {1, 7999, 8000, 12345, 15999, 16001, 22050, 44100, 48000, 192000, 1'536'000}) {
    for (const std::size_t samples : {0, 1, 20, 21, 22, 31, 66, 67, 91, 92, 93, 1000, 1001, 5003}) {
      const std::vector<float> zeros(samples);
      EXPECT_EQ(std::ssize(resample(zeros, rate, 16000)), resampled_length(std::ssize(zeros), rate, 16000))
          << rate << " Hz, " << samples;
    }
  }
}

}  // namespace
}  // namespace torchwhisper::audio
