#include "csrc/audio/stream_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cpp/audio/sound_bytes.h"

namespace torchwhisper::audio {
namespace {

using testing::HasSubstr;

void append_text(Bytes& bytes, const std::string& text) {
  for (const char c : text) {
    bytes.push_back(static_cast<std::byte>(c));
  }
}

void append_all(Bytes& bytes, const Bytes& more) { bytes.insert(bytes.end(), more.begin(), more.end()); }

/// A frame of MPEG 1 layer III at 44.1 kHz, stereo; `rate` is the index of the bit rate, 9 is 128 kbit/s.
Bytes frame(int rate = 9, const std::string& content = "") {
  constexpr int kRates[] = {0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160};
  Bytes bytes = {std::byte{0xFF}, std::byte{0xFB}, static_cast<std::byte>(rate << 4), std::byte{0}};
  bytes.resize(4 + 32);
  append_text(bytes, content);
  bytes.resize(static_cast<std::size_t>(144'000 * kRates[rate] / 44'100));
  return bytes;
}

Bytes frames(int count, int rate = 9) {
  Bytes bytes;
  for (int i = 0; i < count; ++i) {
    append_all(bytes, frame(rate));
  }
  return bytes;
}

Bytes indexed(int promised, int present) {
  Bytes bytes = frame(9, std::string("Xing\0\0\0\1\0\0\0", 11) + static_cast<char>(promised));
  append_all(bytes, frames(present));
  return bytes;
}

std::string mpeg(const Bytes& bytes, std::int64_t limit = 1'000'000) {
  ByteSource source{std::span<const std::byte>(bytes)};
  return mpeg_doubt(source, limit);
}

TEST(MpegDoubt, TrustsAnIndexThatIsRight) {
  EXPECT_EQ(mpeg(indexed(5, 5)), "");
  EXPECT_EQ(mpeg(frames(5)), "");
}

TEST(MpegDoubt, KnowsTags) {
  Bytes bytes;
  append_text(bytes, std::string("ID3\4\0\0\0\0\1\2", 10));
  bytes.resize(10 + 130);
  append_all(bytes, indexed(5, 5));
  append_text(bytes, "TAG");
  bytes.resize(bytes.size() + 125);
  EXPECT_EQ(mpeg(bytes), "");
}

TEST(MpegDoubt, SeesAWrongIndex) {
  EXPECT_THAT(mpeg(indexed(5, 3)), HasSubstr("holds 3 MP3 frames in a row, but its index says 5"));
  Bytes twice = indexed(5, 5);
  append_all(twice, indexed(5, 5));
  EXPECT_THAT(mpeg(twice), HasSubstr("holds 11 MP3 frames in a row, but its index says 5"));
}

TEST(MpegDoubt, SeesAWrongGuess) {
  Bytes bytes = frames(3);
  append_all(bytes, frames(3, 10));
  EXPECT_EQ(mpeg(bytes, 6 * 1152), "");
  EXPECT_THAT(mpeg(bytes, 6 * 1152 - 1), HasSubstr("without an index"));
}

TEST(MpegDoubt, SeesWhatFollowsTheFrames) {
  Bytes cut = frames(3);
  cut.resize(cut.size() - 10);
  EXPECT_THAT(mpeg(cut), HasSubstr("break off after 834 of"));
  Bytes more = frames(3);
  append_text(more, "something else");
  EXPECT_THAT(mpeg(more), HasSubstr("break off after 1251 of 1265 bytes"));
  Bytes before;
  append_text(before, "something else");
  append_all(before, frames(3));
  EXPECT_THAT(mpeg(before), HasSubstr("does not begin"));
  EXPECT_THAT(mpeg({}), HasSubstr("does not begin"));
}

constexpr int kFirst = 2;
constexpr int kLast = 4;

/// A page of 300 bytes of data.
Bytes page(int flags) {
  Bytes bytes;
  append_text(bytes, std::string("OggS\0", 5) + static_cast<char>(flags));
  bytes.resize(26);
  append_text(bytes, std::string("\2\xFF\x2D", 3));
  bytes.resize(bytes.size() + 300);
  return bytes;
}

std::string ogg(const std::vector<int>& page_flags, std::size_t missing = 0) {
  Bytes bytes;
  for (const int flags : page_flags) {
    append_all(bytes, page(flags));
  }
  bytes.resize(bytes.size() - missing);
  ByteSource source{std::span<const std::byte>(bytes)};
  return ogg_doubt(source);
}

TEST(OggDoubt, TrustsOneStream) { EXPECT_EQ(ogg({kFirst, 0, 0, kLast}), ""); }

TEST(OggDoubt, SeesSeveralStreams) {
  EXPECT_THAT(ogg({kFirst, 0, kLast, kFirst, 0, kLast}), HasSubstr("several OGG streams"));
  EXPECT_THAT(ogg({kFirst, kFirst, 0, kLast}), HasSubstr("several OGG streams"));
}

TEST(OggDoubt, SeesWhereItBreaksOff) {
  EXPECT_THAT(ogg({kFirst, 0, 0}), HasSubstr("last OGG page is missing"));
  EXPECT_THAT(ogg({kFirst, 0, kLast}, 100), HasSubstr("last OGG page is missing"));
  EXPECT_THAT(ogg({kFirst, 0, kLast}, 320), HasSubstr("break off"));
}

}  // namespace
}  // namespace torchwhisper::audio
