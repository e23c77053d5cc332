#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "csrc/common/api.h"

namespace torchwhisper::audio {

/// The type in which the samples of an encoding are exact.
enum class SampleType : std::uint8_t { kInt16, kInt32, kFloat32, kFloat64 };

/// What the header of a sound file says.
struct SoundInfo {
  std::string container;    ///< "WAV", "FLAC", "OGG", "MPEG", ...
  std::string encoding;     ///< "PCM_16", "FLOAT", "ULAW", "VORBIS", ...
  std::int64_t frames = 0;  ///< as promised; -1 where nothing is
  int sample_rate = 0;      ///< Hz
  int channels = 0;
  bool common_layout = true;     ///< one centre channel, or left and right
  bool common_encoding = false;  ///< linear, floating, A-law, mu-law, Vorbis or MPEG samples
  SampleType sample_type = SampleType::kFloat32;
};

/// The file cannot be read: it is missing, a directory, empty or not permitted. The text does not name the
/// file, the caller knows it.
class TORCHWHISPER_API SoundError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The file is there, but not for libsndfile: another program may know it.
class TORCHWHISPER_API UnsupportedSound : public SoundError {
 public:
  using SoundError::SoundError;
};

/// An open sound file (libsndfile): WAV, FLAC, OGG, MP3, AIFF, AU, CAF and others.
class TORCHWHISPER_API SoundFile {
 public:
  /// Opens a regular file. Throws SoundError, and UnsupportedSound where libsndfile does not know it.
  explicit SoundFile(const std::string& path);
  /// Reads an encoded file that lies in memory and has to outlive this object. Throws as above.
  explicit SoundFile(std::span<const std::byte> encoded);
  SoundFile(SoundFile&&) noexcept;
  SoundFile& operator=(SoundFile&&) noexcept;
  ~SoundFile();

  const SoundInfo& info() const { return info_; }

  /// Reads the next frames, interleaved, until `samples` is full or the file ends. Integer types come left
  /// justified (8 bits of a file are the upper 8 of 16), floating types as they are in the file.
  /// Returns the number of frames; 0 at the end. Sample: std::int16_t, std::int32_t, float or double.
  template <typename Sample>
  std::int64_t read(std::span<Sample> samples);

  /// Why the file may hold more than could be read: it is damaged, or libsndfile misunderstands it.
  /// Empty if there is nothing to tell. Ask after read() gave 0.
  std::string doubt() const;

 private:
  struct Handle;
  void describe();
  std::string log() const;

  std::unique_ptr<Handle> handle_;
  SoundInfo info_;
  std::int64_t frames_read_ = 0;
};

}  // namespace torchwhisper::audio
