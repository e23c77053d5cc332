#include "csrc/audio/stream_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>

namespace torchwhisper::audio {
namespace {

using View = std::span<const unsigned char>;

bool starts_with(View bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::equal(text.begin(), text.end(), bytes.begin());
}

std::int64_t big_endian(View bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0},
                         [](std::int64_t value, unsigned char byte) { return value << 8 | byte; });
}

/// What the four bytes at the start of a layer III frame say.
struct MpegFrame {
  std::int64_t length = 0;  // bytes
  int sample_rate = 0;
  bool mono = false;
  bool version1 = false;
};

std::optional<MpegFrame> parse_frame(View header) {
  constexpr int kBitRates1[] = {32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320};
  constexpr int kBitRates2[] = {8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160};
  constexpr int kSampleRates[] = {44100, 48000, 32000};
  if (header.size() < 4 || header[0] != 0xFF || (header[1] & 0xE0) != 0xE0) {
    return std::nullopt;
  }
  const int version = header[1] >> 3 & 3;  // 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
  const int layer = header[1] >> 1 & 3;    // 1: layer III
  const int bit_rate = header[2] >> 4;
  const int sample_rate = header[2] >> 2 & 3;
  if (version == 1 || layer != 1 || bit_rate == 0 || bit_rate == 15 || sample_rate == 3) {
    return std::nullopt;
  }
  MpegFrame frame;
  frame.version1 = version == 3;
  frame.mono = header[3] >> 6 == 3;
  const int kilobits = (frame.version1 ? kBitRates1 : kBitRates2)[bit_rate - 1];
  frame.sample_rate = kSampleRates[sample_rate] / (version == 3 ? 1 : version == 2 ? 2 : 4);
  const int padding = header[2] >> 1 & 1;
  frame.length = (frame.version1 ? 144000 : 72000) * kilobits / frame.sample_rate + padding;
  return frame;
}

/// Where the audio begins, after tags.
std::int64_t after_id3(ByteSource& bytes) {
  std::int64_t offset = 0;
  for (View tag = bytes.at(0, 10); tag.size() == 10 && starts_with(tag, "ID3"); tag = bytes.at(offset, 10)) {
    const std::int64_t size =
        std::accumulate(tag.begin() + 6, tag.end(), std::int64_t{0},
                        [](std::int64_t value, unsigned char byte) { return value << 7 | (byte & 0x7F); });
    offset += 10 + size + ((tag[5] & 0x10) != 0 ? 10 : 0);
  }
  return offset;
}

/// How many frames follow according to the index that the first frame may be; -1 if it is none, 0 if the
/// index does not say.
std::int64_t indexed_frames(View first, const MpegFrame& frame) {
  const std::size_t side_information = frame.version1 ? (frame.mono ? 17 : 32) : (frame.mono ? 9 : 17);
  const View xing = first.subspan(std::min(4 + side_information, first.size()));
  if (starts_with(xing, "Xing") || starts_with(xing, "Info")) {
    return xing.size() >= 12 && (xing[7] & 1) != 0 ? big_endian(xing.subspan(8, 4)) : 0;
  }
  const View vbri = first.subspan(std::min<std::size_t>(4 + 32, first.size()));
  if (starts_with(vbri, "VBRI")) {
    return vbri.size() >= 18 ? big_endian(vbri.subspan(14, 4)) : 0;
  }
  return -1;
}

/// The frames from an offset on, as long as each begins where the last one ends.
struct MpegRun {
  std::int64_t frames = 0;
  std::int64_t end = 0;
  bool cut = false;  // the last frame goes beyond the end of the file
};

MpegRun follow_frames(ByteSource& bytes, std::int64_t offset, const MpegFrame& like) {
  MpegRun run;
  for (;;) {
    const std::optional<MpegFrame> frame = parse_frame(bytes.at(offset, 4));
    if (!frame || frame->sample_rate != like.sample_rate || frame->mono != like.mono) {
      break;
    }
    if (offset + frame->length > bytes.size()) {
      run.cut = true;
      break;
    }
    ++run.frames;
    offset += frame->length;
  }
  run.end = offset;
  return run;
}

bool is_trailing_tag(View bytes) {
  return bytes.empty() || starts_with(bytes, "TAG") || starts_with(bytes, "APETAGEX") ||
         starts_with(bytes, "LYRICSBEGIN");
}

constexpr unsigned char kFirstPage = 2;
constexpr unsigned char kLastPage = 4;
constexpr std::int64_t kPageHeader = 27;

}  // namespace

std::string mpeg_doubt(ByteSource& bytes, std::int64_t limit) {
  std::int64_t offset = after_id3(bytes);
  const std::optional<MpegFrame> first = parse_frame(bytes.at(offset, 4));
  if (!first) {
    return "it does not begin with an MP3 frame";
  }
  const std::int64_t indexed = indexed_frames(bytes.at(offset, first->length), *first);
  if (indexed >= 0) {
    offset += first->length;
  }
  const MpegRun run = follow_frames(bytes, offset, *first);
  if (indexed > 0 && run.frames != indexed) {
    return fmt::format("it holds {} MP3 frames in a row, but its index says {}", run.frames, indexed);
  }
  if (indexed <= 0 && run.frames * (first->version1 ? 1152 : 576) > limit) {
    return "it is an MP3 file without an index, whose length is guessed";
  }
  if (run.cut || !is_trailing_tag(bytes.at(run.end, 16))) {
    return fmt::format("its MP3 frames break off after {} of {} bytes", run.end, bytes.size());
  }
  return "";
}

std::string ogg_doubt(ByteSource& bytes) {
  std::int64_t offset = 0;
  std::int64_t first_pages = 0;
  bool in_data = false;
  bool ended = false;
  while (offset < bytes.size()) {
    const View page = bytes.at(offset, kPageHeader + 255);
    if (std::ssize(page) < kPageHeader || !starts_with(page, "OggS")) {
      return fmt::format("its OGG pages break off after {} of {} bytes", offset, bytes.size());
    }
    const bool first = (page[5] & kFirstPage) != 0;
    first_pages += static_cast<std::int64_t>(first);
    if (first && (in_data || first_pages > 1)) {
      return "it holds several OGG streams";
    }
    in_data = !first;
    ended = (page[5] & kLastPage) != 0;
    const std::size_t segments = std::min<std::size_t>(page[26], page.size() - kPageHeader);
    const View lengths = page.subspan(kPageHeader, segments);
    offset += kPageHeader + page[26] + std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  }
  return ended && offset == bytes.size() ? "" : "its last OGG page is missing";
}

}  // namespace torchwhisper::audio
