#include "csrc/audio/byte_source.h"

#include <algorithm>

namespace torchwhisper::audio {

ByteSource::ByteSource(const std::string& path) : file_(path, std::ios::binary | std::ios::ate) {
  size_ = file_ ? std::max<std::int64_t>(file_.tellg(), 0) : 0;
}

ByteSource::ByteSource(std::span<const std::byte> bytes) : memory_(bytes), size_(std::ssize(bytes)) {}

std::span<const unsigned char> ByteSource::at(std::int64_t offset, std::int64_t count) {
  const std::int64_t begin = std::clamp<std::int64_t>(offset, 0, size_);
  const std::int64_t wanted = std::clamp<std::int64_t>(count, 0, std::min(kWindow, size_ - begin));
  const std::byte* data = memory_.data() + begin;
  std::int64_t given = wanted;
  if (memory_.empty()) {
    const std::int64_t window_end = window_begin_ + std::ssize(window_);
    if (begin < window_begin_ || begin + wanted > window_end) {
      window_.resize(static_cast<std::size_t>(std::min(kWindow, size_ - begin)));
      file_.clear();
      file_.seekg(begin);
      file_.read(reinterpret_cast<char*>(window_.data()), std::ssize(window_));
      window_.resize(static_cast<std::size_t>(file_.gcount()));
      window_begin_ = begin;
    }
    data = window_.data() + (begin - window_begin_);
    given = std::min(wanted, window_begin_ + std::ssize(window_) - begin);
  }
  return {reinterpret_cast<const unsigned char*>(data),
          static_cast<std::size_t>(std::max<std::int64_t>(given, 0))};
}

}  // namespace torchwhisper::audio
