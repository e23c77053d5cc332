#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "csrc/audio/load_audio.h"
#include "csrc/audio/mel.h"
#include "csrc/audio/mel_filters.h"
#include "csrc/audio/resample.h"
#include "csrc/bindings/bind.h"

namespace py = pybind11;

namespace torchwhisper::bindings {
namespace {

using Samples = py::array_t<float, py::array::c_style | py::array::forcecast>;

/// An array that takes over the vector's memory.
py::array_t<float> to_numpy(std::vector<float> samples) {
  auto owned = std::make_unique<std::vector<float>>(std::move(samples));
  const float* data = owned->data();
  const auto size = static_cast<py::ssize_t>(owned->size());
  const py::capsule owner(owned.get(), [](void* p) { delete static_cast<std::vector<float>*>(p); });
  static_cast<void>(owned.release());
  return py::array_t<float>(size, data, owner);
}

py::tuple loaded_to_python(audio::LoadedAudio loaded) {
  return py::make_tuple(to_numpy(std::move(loaded.samples)), std::move(loaded.warning));
}

py::tuple load_audio(const std::string& path, int sample_rate, common::Control& control) {
  audio::LoadedAudio loaded;
  {
    const py::gil_scoped_release no_gil;
    loaded = audio::load_audio(path, sample_rate, control);
  }
  return loaded_to_python(std::move(loaded));
}

double audio_seconds(const std::string& path) {
  const py::gil_scoped_release no_gil;
  const audio::SoundInfo info = audio::SoundFile(path).info();
  return info.frames < 0 ? -1.0 : static_cast<double>(info.frames) / info.sample_rate;
}

py::tuple decode_audio(const py::buffer& encoded, int sample_rate, common::Control& control) {
  const py::buffer_info bytes = encoded.request();
  const std::span view(static_cast<const std::byte*>(bytes.ptr),
                       static_cast<std::size_t>(bytes.size * bytes.itemsize));
  audio::LoadedAudio loaded;
  {
    const py::gil_scoped_release no_gil;
    loaded = audio::load_audio(audio::SoundFile(view), sample_rate, control);
  }
  return loaded_to_python(std::move(loaded));
}

py::array_t<float> resample(const Samples& samples, int from_rate, int to_rate) {
  const std::span view(samples.data(), static_cast<std::size_t>(samples.size()));
  std::vector<float> resampled;
  {
    const py::gil_scoped_release no_gil;
    resampled = audio::resample(view, from_rate, to_rate);
  }
  return to_numpy(std::move(resampled));
}

}  // namespace

void bind_audio(py::module_& m) {
  const auto sound_error = py::register_exception<audio::SoundError>(m, "SoundError", PyExc_RuntimeError);
  py::register_exception<audio::UnsupportedSound>(m, "UnsupportedSound", sound_error);
  m.def("load_audio", &load_audio, py::arg("path"), py::arg("sample_rate"), py::arg("control"), R"pbdoc(
Decode a sound file (path as bytes) with libsndfile to mono at sample_rate.

Returns float32 samples in multiples of 1/32768, and why the file may hold more, mostly "". Raises SoundError where
the file cannot be read, UnsupportedSound where it is to be left to ffmpeg, ValueError on NaN and infinity.
)pbdoc");
  m.def("audio_seconds", &audio_seconds, py::arg("path"),
        "The length that a sound file's header promises, -1 if none. Raises as load_audio, but decodes "
        "nothing.");
  m.def("decode_audio", &decode_audio, py::arg("encoded"), py::arg("sample_rate"), py::arg("control"),
        "As load_audio, from the bytes of an encoded file.");
  m.def("resample", &resample, py::arg("samples"), py::arg("from_rate"), py::arg("to_rate"),
        "One channel of float32 samples at another rate (Hz).");
  m.def("log_mel_spectrogram", torch::wrap_pybind_function_no_gil(&audio::log_mel_spectrogram),
        py::arg("audio"), py::arg("filters"), py::arg("padding"), py::arg("control"), R"pbdoc(
The log-mel spectrogram of audio, float32 [samples] or [batch, samples] at 16 kHz on the CPU, by filters [mels, 201]
after padding zeros: [mels, frames] or [batch, mels, frames].
)pbdoc");
  m.def("mel_filters", torch::wrap_pybind_function_no_gil(&audio::mel_filters), py::arg("mels"),
        "Slaney's mel filters, float32 [mels, 201].");
}

}  // namespace torchwhisper::bindings
