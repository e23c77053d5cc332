#include "csrc/audio/sound_file.h"

#include <fmt/format.h>
#include <sndfile.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <type_traits>
#include <utility>

#include "csrc/audio/byte_source.h"
#include "csrc/audio/stream_check.h"

namespace torchwhisper::audio {
namespace {

namespace fs = std::filesystem;

/// More than headers without samples take.
constexpr std::int64_t kLargestEmptyFile = 4096;

/// A file in memory, as libsndfile's virtual input wants it.
struct MemoryReader {
  std::span<const std::byte> bytes;
  sf_count_t position = 0;
};

MemoryReader& reader(void* user) { return *static_cast<MemoryReader*>(user); }

sf_count_t memory_size(void* user) { return static_cast<sf_count_t>(reader(user).bytes.size()); }

sf_count_t memory_tell(void* user) { return reader(user).position; }

sf_count_t memory_seek(sf_count_t offset, int whence, void* user) {
  const sf_count_t origin = whence == SEEK_SET   ? 0
                            : whence == SEEK_CUR ? reader(user).position
                                                 : memory_size(user);
  reader(user).position = std::clamp<sf_count_t>(origin + offset, 0, memory_size(user));
  return reader(user).position;
}

sf_count_t memory_read(void* target, sf_count_t count, void* user) {
  MemoryReader& from = reader(user);
  const sf_count_t given = std::clamp<sf_count_t>(memory_size(user) - from.position, 0, count);
  if (given > 0) {
    std::memcpy(target, from.bytes.data() + from.position, static_cast<std::size_t>(given));
    from.position += given;
  }
  return given;
}

sf_count_t memory_write(const void* /*source*/, sf_count_t /*count*/, void* /*user*/) { return 0; }

constexpr SF_VIRTUAL_IO kMemoryInput = {memory_size, memory_seek, memory_read, memory_write, memory_tell};

struct NamedFormat {
  int format;
  const char* name;
};

constexpr NamedFormat kContainers[] = {
    {SF_FORMAT_WAV, "WAV"},   {SF_FORMAT_WAVEX, "WAV"}, {SF_FORMAT_RF64, "RF64"}, {SF_FORMAT_W64, "W64"},
    {SF_FORMAT_FLAC, "FLAC"}, {SF_FORMAT_OGG, "OGG"},   {SF_FORMAT_MPEG, "MPEG"}, {SF_FORMAT_AIFF, "AIFF"},
    {SF_FORMAT_AU, "AU"},     {SF_FORMAT_CAF, "CAF"},
};

/// The encodings that we decode exactly as the ffmpeg program does, and the type of its samples.
struct NamedEncoding {
  const char* name;
  int format;
  SampleType type;
};

constexpr NamedEncoding kEncodings[] = {
    {"PCM_S8", SF_FORMAT_PCM_S8, SampleType::kInt16},
    {"PCM_U8", SF_FORMAT_PCM_U8, SampleType::kInt16},
    {"PCM_16", SF_FORMAT_PCM_16, SampleType::kInt16},
    {"PCM_24", SF_FORMAT_PCM_24, SampleType::kInt32},
    {"PCM_32", SF_FORMAT_PCM_32, SampleType::kInt32},
    {"FLOAT", SF_FORMAT_FLOAT, SampleType::kFloat32},
    {"DOUBLE", SF_FORMAT_DOUBLE, SampleType::kFloat64},
    {"ALAW", SF_FORMAT_ALAW, SampleType::kInt16},
    {"ULAW", SF_FORMAT_ULAW, SampleType::kInt16},
    {"VORBIS", SF_FORMAT_VORBIS, SampleType::kFloat32},
    {"MPEG_LAYER_III", SF_FORMAT_MPEG_LAYER_III, SampleType::kFloat32},
};

/// libsndfile's own name of a container or an encoding, for what our tables do not list.
std::string sndfile_name(int format) {
  SF_FORMAT_INFO info = {format, nullptr, nullptr};
  const bool known =
      sf_command(nullptr, SFC_GET_FORMAT_INFO, &info, sizeof(info)) == 0 && info.name != nullptr;
  return known ? info.name : fmt::format("format 0x{:x}", static_cast<unsigned>(format));
}

/// Whether the channels are what their number suggests: some files say "the second one is the subwoofer".
bool common_layout(SNDFILE* file, int channels) {
  if (channels > 2) {
    return false;
  }
  std::array<int, 2> map{};
  const int bytes = channels * static_cast<int>(sizeof(int));
  if (sf_command(file, SFC_GET_CHANNEL_MAP_INFO, map.data(), bytes) == SF_FALSE) {
    return true;
  }
  if (channels == 1) {
    return true;
  }
  const auto is = [](int position, int plain, int front) {
    return position == plain || position == front || position == SF_CHANNEL_MAP_INVALID;
  };
  return is(map[0], SF_CHANNEL_MAP_LEFT, SF_CHANNEL_MAP_FRONT_LEFT) &&
         is(map[1], SF_CHANNEL_MAP_RIGHT, SF_CHANNEL_MAP_FRONT_RIGHT);
}

void check_is_readable(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    throw SoundError("there is no such file");
  }
  if (error) {
    throw SoundError(error.message());
  }
  if (fs::is_directory(status)) {
    throw SoundError("it is a directory, expected an audio file");
  }
  if (!fs::is_regular_file(status)) {
    throw UnsupportedSound("it is not a regular file");
  }
  if (fs::file_size(path, error) == 0 && !error) {
    throw SoundError("it is empty (0 bytes)");
  }
}

/// What libsndfile notes where the data chunk of a WAV is longer than the file. Programs that write to a pipe
/// put the largest number there, which promises nothing.
std::string missing_data(const std::string& log) {
  constexpr const char* kLine = "data : ";
  constexpr long long kNoPromise = 0x7FFFF000;
  const std::size_t line = log.find(kLine);
  if (line == std::string::npos) {
    return "";
  }
  long long promised = 0;
  long long present = 0;
  // NOLINTNEXTLINE(bugprone-unchecked-string-to-number-conversion): libsndfile wrote these numbers itself.
  const int found = std::sscanf(log.c_str() + line, "data : %lld (should be %lld)", &promised, &present);
  return found == 2 && promised > present && promised < kNoPromise
             ? fmt::format("it holds {} of {} bytes of samples", present, promised)
             : "";
}

}  // namespace

struct SoundFile::Handle {
  explicit Handle(ByteSource source) : bytes(std::move(source)) {}

  ByteSource bytes;
  MemoryReader memory;
  SF_INFO info{};
  std::unique_ptr<SNDFILE, decltype(&sf_close)> file{nullptr, &sf_close};
};

SoundFile::SoundFile(const std::string& path) {
  check_is_readable(path);  // before anything is opened: a pipe is not to be touched
  handle_ = std::make_unique<Handle>(ByteSource(path));
  errno = 0;
  handle_->file.reset(sf_open(path.c_str(), SFM_READ, &handle_->info));
  if (handle_->file == nullptr && sf_error(nullptr) == SF_ERR_SYSTEM) {
    throw SoundError(errno == 0 ? "the file cannot be opened" : std::strerror(errno));
  }
  describe();
}

SoundFile::SoundFile(std::span<const std::byte> encoded)
    : handle_(std::make_unique<Handle>(ByteSource(encoded))) {
  if (encoded.empty()) {
    throw SoundError("it is empty (0 bytes)");
  }
  handle_->memory.bytes = encoded;
  SF_VIRTUAL_IO input = kMemoryInput;
  handle_->file.reset(sf_open_virtual(&input, SFM_READ, &handle_->info, &handle_->memory));
  describe();
}

SoundFile::SoundFile(SoundFile&&) noexcept = default;
SoundFile& SoundFile::operator=(SoundFile&&) noexcept = default;
SoundFile::~SoundFile() = default;

void SoundFile::describe() {
  if (handle_->file == nullptr) {
    throw UnsupportedSound("libsndfile does not know its format");
  }
  const SF_INFO& header = handle_->info;
  const int container = header.format & SF_FORMAT_TYPEMASK;
  const int encoding = header.format & SF_FORMAT_SUBMASK;
  const auto* known_container =
      std::find_if(std::begin(kContainers), std::end(kContainers),
                   [&](const NamedFormat& entry) { return entry.format == container; });
  const auto* known_encoding =
      std::find_if(std::begin(kEncodings), std::end(kEncodings),
                   [&](const NamedEncoding& entry) { return entry.format == encoding; });
  info_.container =
      known_container != std::end(kContainers) ? known_container->name : sndfile_name(container);
  info_.common_encoding = known_encoding != std::end(kEncodings);
  info_.encoding = info_.common_encoding ? known_encoding->name : sndfile_name(encoding);
  info_.sample_type = info_.common_encoding ? known_encoding->type : SampleType::kFloat32;
  // The length of MPEG without an index is an estimate.
  const bool counted = encoding < SF_FORMAT_MPEG_LAYER_I || encoding > SF_FORMAT_MPEG_LAYER_III;
  info_.frames = counted && header.frames >= 0 && header.frames < SF_COUNT_MAX ? header.frames : -1;
  info_.sample_rate = header.samplerate;
  info_.channels = header.channels;
  info_.common_layout = common_layout(handle_->file.get(), header.channels);
}

template <typename Sample>
std::int64_t SoundFile::read(std::span<Sample> samples) {
  const auto frames = static_cast<sf_count_t>(samples.size()) / info_.channels;
  sf_count_t given = 0;
  if constexpr (std::is_same_v<Sample, std::int16_t>) {
    given = sf_readf_short(handle_->file.get(), samples.data(), frames);
  } else if constexpr (std::is_same_v<Sample, std::int32_t>) {
    given = sf_readf_int(handle_->file.get(), samples.data(), frames);
  } else if constexpr (std::is_same_v<Sample, float>) {
    given = sf_readf_float(handle_->file.get(), samples.data(), frames);
  } else {
    given = sf_readf_double(handle_->file.get(), samples.data(), frames);
  }
  given = std::max<sf_count_t>(given, 0);
  frames_read_ += given;
  return given;
}

template TORCHWHISPER_API std::int64_t SoundFile::read(std::span<std::int16_t> samples);
template TORCHWHISPER_API std::int64_t SoundFile::read(std::span<std::int32_t> samples);
template TORCHWHISPER_API std::int64_t SoundFile::read(std::span<float> samples);
template TORCHWHISPER_API std::int64_t SoundFile::read(std::span<double> samples);

std::string SoundFile::log() const {
  std::array<char, 16384> text{};
  sf_command(handle_->file.get(), SFC_GET_LOG_INFO, text.data(), static_cast<int>(text.size()));
  return text.data();
}

std::string SoundFile::doubt() const {
  ByteSource& bytes = handle_->bytes;
  if (frames_read_ < info_.frames) {
    const double rate = info_.sample_rate;
    return fmt::format("the audio breaks off after {:.2f} s of {:.2f} s",
                       static_cast<double>(frames_read_) / rate, static_cast<double>(info_.frames) / rate);
  }
  if (info_.container == "MPEG") {
    return mpeg_doubt(bytes, handle_->info.frames);
  }
  if (info_.container == "OGG") {
    return ogg_doubt(bytes);
  }
  if (frames_read_ == 0 && bytes.size() > kLargestEmptyFile) {
    return fmt::format("its header says that it has no samples, but it is {} bytes long", bytes.size());
  }
  return missing_data(log());
}

}  // namespace torchwhisper::audio
