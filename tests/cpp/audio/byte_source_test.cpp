#include "csrc/audio/byte_source.h"

#include <gtest/gtest.h>

#include "tests/cpp/audio/sound_bytes.h"

namespace torchwhisper::audio {
namespace {

Bytes counting(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::byte>(i * 7 % 251);
  }
  return bytes;
}

void expect_same(ByteSource& source, const Bytes& bytes, std::int64_t offset, std::int64_t count) {
  const auto view = source.at(offset, count);
  const std::int64_t available = std::max<std::int64_t>(std::min(count, std::ssize(bytes) - offset), 0);
  ASSERT_EQ(std::ssize(view), available) << offset;
  for (std::int64_t i = 0; i < available; ++i) {
    ASSERT_EQ(std::byte{view[static_cast<std::size_t>(i)]}, bytes[static_cast<std::size_t>(offset + i)]);
  }
}

TEST(ByteSource, GivesTheSameFromMemoryAndFromAFile) {
  const Bytes bytes = counting(200'000);
  const TemporaryFile file("bytes", bytes);
  ByteSource from_memory{std::span<const std::byte>(bytes)};
  ByteSource from_file(file.path());
  for (ByteSource* source : {&from_memory, &from_file}) {
    EXPECT_EQ(source->size(), 200'000);
    for (const std::int64_t offset : {0, 10, 65'530, 65'536, 131'000, 199'990, 200'000, 300'000, 5}) {
      expect_same(*source, bytes, offset, 30);
      expect_same(*source, bytes, offset, ByteSource::kWindow);
    }
  }
}

TEST(ByteSource, IsEmptyWhereThereIsNoFile) {
  ByteSource source(std::string("/no/such/file"));
  EXPECT_EQ(source.size(), 0);
  EXPECT_TRUE(source.at(0, 10).empty());
}

}  // namespace
}  // namespace torchwhisper::audio
