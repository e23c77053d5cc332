// Transcribes the first 30 seconds of a recording to token ids, without Python:
//
//   transcribe_window CHECKPOINT RECORDING
//
// Turning token ids into text and sliding the window over a longer recording are left to the caller: the
// library has no tokenizer and no seek loop.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/audio/load_audio.h"
#include "csrc/audio/mel.h"
#include "csrc/audio/mel_filters.h"
#include "csrc/common/control.h"
#include "csrc/decoding/task.h"
#include "csrc/model/checkpoint.h"

namespace audio = torchwhisper::audio;
namespace common = torchwhisper::common;
namespace decoding = torchwhisper::decoding;
namespace model = torchwhisper::model;

namespace {

// The multilingual vocabularies end with: text, <|endoftext|>, <|startoftranscript|>, the languages, the
// tasks, ..., <|notimestamps|>, and a time for every 20 ms.
struct Vocabulary {
  std::int64_t n_languages;
  std::int64_t eot = 50257;
  std::int64_t sot = 50258;

  std::int64_t first_language() const { return sot + 1; }
  std::int64_t translate() const { return sot + 1 + n_languages; }
  std::int64_t transcribe() const { return translate() + 1; }
  std::int64_t sot_lm() const { return translate() + 2; }
  std::int64_t sot_prev() const { return translate() + 3; }
  std::int64_t no_speech() const { return translate() + 4; }
  std::int64_t no_timestamps() const { return translate() + 5; }
  std::int64_t timestamp_begin() const { return translate() + 6; }
};

// The first window: [1, n_mels, 2 * n_audio_ctx], filled up with zeros as openai-whisper does it.
at::Tensor log_mel_window(const std::string& path, const model::ModelDimensions& dims,
                          common::Control& control) {
  const auto loaded = audio::load_audio(path, audio::kSampleRate, control);
  if (!loaded.warning.empty()) {
    std::cerr << "warning: " << loaded.warning << '\n';
  }
  const std::int64_t frames = 2 * dims.n_audio_ctx;
  const at::Tensor mel = audio::log_mel_spectrogram(
      at::tensor(loaded.samples), audio::mel_filters(dims.n_mels), frames * audio::kHopLength, control);
  const std::int64_t content = std::min(mel.size(-1) - frames, frames);
  return at::constant_pad_nd(mel.slice(-1, 0, content), {0, frames - content}).unsqueeze(0);
}

std::int64_t detect_language(model::Whisper& whisper, const at::Tensor& features,
                             const Vocabulary& vocabulary) {
  const at::Tensor logits = whisper->logits(at::full({1, 1}, vocabulary.sot, at::kLong), features);
  const std::int64_t first = vocabulary.first_language();
  const at::Tensor languages = logits[0][0].slice(0, first, first + vocabulary.n_languages);
  return first + languages.argmax().item<std::int64_t>();
}

decoding::DecodingOptions options_for(const model::ModelDimensions& dims, const Vocabulary& vocabulary) {
  decoding::DecodingOptions options;
  options.sample_len = dims.n_text_ctx / 2;
  options.n_ctx = dims.n_text_ctx;
  options.sample_begin = 3;
  options.eot = vocabulary.eot;
  options.no_speech = vocabulary.no_speech();
  options.no_timestamps = vocabulary.no_timestamps();
  options.timestamp_begin = vocabulary.timestamp_begin();
  options.max_initial_timestamp_index = 50;  // one second
  options.suppress_blank = {220, vocabulary.eot};
  options.suppress_tokens = {vocabulary.sot,      vocabulary.transcribe(), vocabulary.translate(),
                             vocabulary.sot_lm(), vocabulary.sot_prev(),   vocabulary.no_speech()};
  return options;
}

void run(const std::string& checkpoint, const std::string& recording) {
  const c10::InferenceMode no_gradients;
  common::Control control;
  model::Whisper whisper = model::load_model(checkpoint);
  if (!whisper->dims.is_multilingual()) {
    throw std::invalid_argument("this example knows the multilingual vocabularies only");
  }
  whisper->prepare(at::kFloat);
  const Vocabulary vocabulary{.n_languages = whisper->dims.n_vocab - 51766};

  const at::Tensor mel = log_mel_window(recording, whisper->dims, control);
  const at::Tensor features = whisper->embed_audio(mel, control);
  const std::int64_t language = detect_language(whisper, features, vocabulary);
  const decoding::Sequence initial{vocabulary.sot, language, vocabulary.transcribe()};
  const auto results = decoding::decode(whisper, whisper->decoder->remember(features), {initial},
                                        options_for(whisper->dims, vocabulary), control);

  for (const std::int64_t token : results.front().tokens) {
    std::cout << token << ' ';
  }
  std::cout << "\nlanguage " << language << ", no speech " << results.front().no_speech_prob << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: transcribe_window CHECKPOINT RECORDING\n";
    return 2;
  }
  try {
    run(argv[1], argv[2]);
    return 0;
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << '\n';
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
