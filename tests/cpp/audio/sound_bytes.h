#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

namespace torchwhisper::audio {

using Bytes = std::vector<std::byte>;

/// Format tags of a WAV file.
enum class WavFormat : std::uint16_t { kInteger = 1, kFloat = 3 };

template <typename Value>
void append(Bytes& bytes, Value value) {
  const auto* raw = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), raw, raw + sizeof(Value));
}

inline void append_tag(Bytes& bytes, const char* tag) {
  const auto* raw = reinterpret_cast<const std::byte*>(tag);
  bytes.insert(bytes.end(), raw, raw + 4);
}

/// A WAV file with these interleaved samples.
template <typename Sample>
Bytes wav(const std::vector<Sample>& samples, int channels, int rate, WavFormat format) {
  const auto block = static_cast<std::uint16_t>(channels * static_cast<int>(sizeof(Sample)));
  const auto size = static_cast<std::uint32_t>(samples.size() * sizeof(Sample));
  Bytes bytes;
  append_tag(bytes, "RIFF");
  append(bytes, std::uint32_t{36} + size);
  append_tag(bytes, "WAVE");
  append_tag(bytes, "fmt ");
  append(bytes, std::uint32_t{16});
  append(bytes, static_cast<std::uint16_t>(format));
  append(bytes, static_cast<std::uint16_t>(channels));
  append(bytes, static_cast<std::uint32_t>(rate));
  append(bytes, static_cast<std::uint32_t>(rate * block));
  append(bytes, block);
  append(bytes, static_cast<std::uint16_t>(8 * sizeof(Sample)));
  append_tag(bytes, "data");
  append(bytes, size);
  for (const Sample sample : samples) {
    append(bytes, sample);
  }
  return bytes;
}

inline std::filesystem::path jfk_path() {
  return std::filesystem::path(__FILE__).parent_path() / "../../../examples/jfk.flac";
}

inline Bytes read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Bytes bytes(content.size());
  std::memcpy(bytes.data(), content.data(), content.size());
  return bytes;
}

/// A file that is gone at the end of the test.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& name, const Bytes& bytes)
      : path_(std::filesystem::temp_directory_path() / ("torchwhisper-test-" + name)) {
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { std::filesystem::remove(path_); }

  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace torchwhisper::audio
