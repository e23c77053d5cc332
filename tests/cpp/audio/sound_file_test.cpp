#include "csrc/audio/sound_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cpp/audio/sound_bytes.h"

namespace torchwhisper::audio {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <typename Sample>
std::vector<Sample> read_all(SoundFile& file) {
  std::vector<Sample> all;
  std::vector<Sample> block(static_cast<std::size_t>(7 * file.info().channels));  // not a divisor of anything
  while (const std::int64_t frames = file.read(std::span(block))) {
    all.insert(all.end(), block.begin(), block.begin() + frames * file.info().channels);
  }
  return all;
}

const std::vector<std::int16_t> kSamples = {0, 1, -1, 32767, -32768, 1000, 12, -7};

TEST(SoundFile, ReadsFromMemory) {
  const Bytes bytes = wav(kSamples, 2, 8000, WavFormat::kInteger);
  SoundFile file{std::span(bytes)};
  EXPECT_EQ(file.info().container, "WAV");
  EXPECT_EQ(file.info().encoding, "PCM_16");
  EXPECT_EQ(file.info().sample_rate, 8000);
  EXPECT_EQ(file.info().channels, 2);
  EXPECT_EQ(file.info().frames, 4);
  EXPECT_EQ(file.info().sample_type, SampleType::kInt16);
  EXPECT_TRUE(file.info().common_encoding);
  EXPECT_EQ(read_all<std::int16_t>(file), kSamples);
  EXPECT_EQ(file.doubt(), "");
}

TEST(SoundFile, ReadsFromAPath) {
  const TemporaryFile temporary("path.wav", wav(kSamples, 1, 16000, WavFormat::kInteger));
  SoundFile file(temporary.path());
  EXPECT_EQ(read_all<std::int16_t>(file), kSamples);
}

TEST(SoundFile, LeavesFloatsAsTheyAre) {
  const std::vector<double> samples = {0.1, -1.5, 3e10};
  const Bytes bytes = wav(samples, 1, 16000, WavFormat::kFloat);
  SoundFile file{std::span(bytes)};
  EXPECT_EQ(file.info().sample_type, SampleType::kFloat64);
  EXPECT_EQ(read_all<double>(file), samples);
}

TEST(SoundFile, ShiftsIntegersToTheLeft) {
  const Bytes bytes = wav(std::vector<std::uint8_t>{0, 127, 128, 255}, 1, 16000, WavFormat::kInteger);
  SoundFile file{std::span(bytes)};
  EXPECT_THAT(read_all<std::int16_t>(file), ElementsAre(-32768, -256, 0, 127 * 256));
}

TEST(SoundFile, ReadsTheSameFromMemoryAndFromAPath) {
  const Bytes bytes = read_bytes(jfk_path());
  SoundFile from_memory{std::span(bytes)};
  SoundFile from_path(jfk_path().string());
  EXPECT_EQ(from_path.info().container, "FLAC");
  EXPECT_EQ(from_path.info().encoding, "PCM_24");
  EXPECT_EQ(from_path.info().frames, 485100);
  EXPECT_EQ(read_all<std::int32_t>(from_memory), read_all<std::int32_t>(from_path));
}

TEST(SoundFile, SaysWhereADamagedFileBreaksOff) {
  Bytes bytes = read_bytes(jfk_path());
  bytes.resize(bytes.size() / 2);
  SoundFile file{std::span(bytes)};
  const auto frames = static_cast<std::int64_t>(read_all<std::int32_t>(file).size()) / 2;
  EXPECT_GT(frames, 44100);
  EXPECT_LT(frames, file.info().frames);
  EXPECT_THAT(file.doubt(), HasSubstr("of 11.00 s"));
}

/// The error that opening gives, of exactly this type.
template <typename Error>
std::string refusal(const std::string& path) {
  try {
    const SoundFile file(path);
  } catch (const SoundError& error) {
    EXPECT_EQ(typeid(error), typeid(Error));
    return error.what();
  }
  return "no error";
}

TEST(SoundFile, RefusesWhatCannotBeRead) {
  EXPECT_THAT(refusal<SoundError>("/no/such/file.wav"), HasSubstr("no such file"));
  EXPECT_THAT(refusal<SoundError>("/tmp"), HasSubstr("directory"));
  const TemporaryFile empty("empty.wav", {});
  EXPECT_THAT(refusal<SoundError>(empty.path()), HasSubstr("empty"));
  EXPECT_THROW(SoundFile{std::span<const std::byte>()}, SoundError);
}

TEST(SoundFile, TellsWhatItDoesNotKnowFromWhatItCannotRead) {
  const TemporaryFile text("text.wav", Bytes(1000, std::byte{'x'}));
  EXPECT_THAT(refusal<UnsupportedSound>(text.path()), HasSubstr("does not know"));
  EXPECT_THAT(refusal<UnsupportedSound>("/dev/zero"), HasSubstr("regular file"));
}

}  // namespace
}  // namespace torchwhisper::audio
