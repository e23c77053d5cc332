#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "csrc/common/api.h"

namespace torchwhisper::audio {

/// The bytes of a file or of memory (which has to outlive this object), read forward in windows.
class TORCHWHISPER_API ByteSource {
 public:
  explicit ByteSource(const std::string& path);
  explicit ByteSource(std::span<const std::byte> bytes);

  std::int64_t size() const { return size_; }

  /// The bytes [offset, offset + count), fewer at the end of the file. Valid until the next call.
  /// At most kWindow bytes at once.
  std::span<const unsigned char> at(std::int64_t offset, std::int64_t count);

  static constexpr std::int64_t kWindow = 1 << 16;

 private:
  std::span<const std::byte> memory_;
  std::ifstream file_;
  std::vector<std::byte> window_;
  std::int64_t window_begin_ = 0;
  std::int64_t size_ = 0;
};

}  // namespace torchwhisper::audio
