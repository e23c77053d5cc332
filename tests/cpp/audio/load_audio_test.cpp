#include "csrc/audio/load_audio.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "csrc/audio/resample.h"
#include "tests/cpp/audio/sound_bytes.h"

namespace torchwhisper::audio {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

LoadedAudio load(const Bytes& bytes, int rate = kSampleRate) {
  common::Control control;
  return load_audio(SoundFile(std::span(bytes)), rate, control);
}

constexpr float kStep = 1 / 32768.0F;

TEST(LoadAudio, Keeps16BitSamples) {
  const Bytes bytes = wav(std::vector<std::int16_t>{0, 1, -1, 32767, -32768}, 1, 16000, WavFormat::kInteger);
  EXPECT_THAT(load(bytes).samples, ElementsAre(0, kStep, -kStep, 1 - kStep, -1));
}

TEST(LoadAudio, Cuts32BitSamples) {
  const Bytes bytes =
      wav(std::vector<std::int32_t>{65535, 65536, -1, std::numeric_limits<std::int32_t>::min()}, 1, 16000,
          WavFormat::kInteger);
  EXPECT_THAT(load(bytes).samples, ElementsAre(0, kStep, -kStep, -1));
}

TEST(LoadAudio, RoundsAndSaturatesFloats) {
  const Bytes bytes = wav(std::vector<float>{0.5F * kStep, 1.5F * kStep, 0.6F * kStep, 1, -1, 7, -1e30F}, 1,
                          16000, WavFormat::kFloat);
  EXPECT_THAT(load(bytes).samples, ElementsAre(0, 2 * kStep, kStep, 1 - kStep, -1, 1 - kStep, -1));
}

TEST(LoadAudio, MixesTwoChannels) {
  const Bytes bytes = wav(std::vector<std::int16_t>{1, 2, -1, -2, 32767, 32767, -32768, 32767}, 2, 16000,
                          WavFormat::kInteger);
  EXPECT_THAT(load(bytes).samples, ElementsAre(2 * kStep, -kStep, 1 - kStep, 0));
}

TEST(LoadAudio, ResamplesToTheRateThatIsWanted) {
  const Bytes bytes = wav(std::vector<std::int16_t>(8000, 1000), 1, 8000, WavFormat::kInteger);
  const LoadedAudio loaded = load(bytes);
  ASSERT_EQ(loaded.samples.size(), 16000U);
  for (const float sample : loaded.samples) {
    ASSERT_NEAR(sample, 1000 * kStep, kStep);
  }
  EXPECT_EQ(load(bytes, 11025).samples.size(), 11025U);
}

TEST(LoadAudio, GivesNothingForAFileWithoutSamples) {
  const LoadedAudio loaded = load(wav(std::vector<std::int16_t>{}, 1, 44100, WavFormat::kInteger));
  EXPECT_THAT(loaded.samples, IsEmpty());
  EXPECT_EQ(loaded.warning, "");
}

TEST(LoadAudio, ReadsTheBundledRecording) {
  common::Control control;
  const LoadedAudio loaded = load_audio(jfk_path().string(), kSampleRate, control);
  EXPECT_EQ(loaded.samples.size(), 176000U);
  EXPECT_EQ(loaded.warning, "");
}

TEST(LoadAudio, GivesWhatATruncatedFileHolds) {
  Bytes bytes = read_bytes(jfk_path());
  bytes.resize(bytes.size() / 2);
  const LoadedAudio loaded = load(bytes);
  EXPECT_GT(loaded.samples.size(), 16000U);
  EXPECT_LT(loaded.samples.size(), 176000U);
  EXPECT_THAT(loaded.warning, HasSubstr("breaks off"));
}

TEST(LoadAudio, LeavesManyChannelsToOthers) {
  EXPECT_THROW(load(wav(std::vector<std::int16_t>(300), 3, 16000, WavFormat::kInteger)), UnsupportedSound);
}

TEST(LoadAudio, RefusesSamplesThatAreNotFinite) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    std::vector<float> samples(100);
    samples[43] = bad;  // the right channel of frame 21
    try {
      load(wav(samples, 2, 16000, WavFormat::kFloat));
      ADD_FAILURE() << "expected an error for " << bad;
    } catch (const std::invalid_argument& error) {
      EXPECT_THAT(error.what(), HasSubstr("sample 21 is"));
    }
  }
}

TEST(LoadAudio, StopsWhenItIsCancelled) {
  common::Control control;
  control.cancel();
  EXPECT_THROW(load_audio(jfk_path().string(), kSampleRate, control), common::Cancelled);
}

}  // namespace
}  // namespace torchwhisper::audio
