#include <torch/csrc/Exceptions.h>

#include <optional>
#include <vector>

#include "csrc/bindings/bind.h"
#include "csrc/bindings/control.h"
#include "csrc/decoding/task.h"

namespace py = pybind11;

namespace torchwhisper::bindings {

void bind_decoding(py::module_& m) {
  using decoding::DecodingOptions;
  using decoding::DecodingResult;
  py::class_<DecodingOptions>(m, "DecodingOptions", "What one decode needs to know, in token ids.")
      .def(py::init([](std::int64_t n_group, std::int64_t sample_len, std::int64_t n_ctx,
                       std::int64_t sot_index, std::int64_t sample_begin, std::int64_t eot,
                       std::int64_t no_speech, double temperature, std::int64_t beam_size, double patience,
                       std::optional<double> length_penalty, std::vector<std::int64_t> suppress_tokens,
                       std::vector<std::int64_t> suppress_blank, std::int64_t timestamp_begin,
                       std::int64_t no_timestamps, std::int64_t max_initial_timestamp_index) {
             return DecodingOptions{n_group,
                                    sample_len,
                                    n_ctx,
                                    sot_index,
                                    sample_begin,
                                    eot,
                                    no_speech,
                                    temperature,
                                    beam_size,
                                    patience,
                                    length_penalty,
                                    std::move(suppress_tokens),
                                    std::move(suppress_blank),
                                    timestamp_begin,
                                    no_timestamps,
                                    max_initial_timestamp_index};
           }),
           py::kw_only(), py::arg("n_group"), py::arg("sample_len"), py::arg("n_ctx"), py::arg("sot_index"),
           py::arg("sample_begin"), py::arg("eot"), py::arg("no_speech"), py::arg("temperature"),
           py::arg("beam_size"), py::arg("patience"), py::arg("length_penalty"), py::arg("suppress_tokens"),
           py::arg("suppress_blank"), py::arg("timestamp_begin"), py::arg("no_timestamps"),
           py::arg("max_initial_timestamp_index"));

  py::class_<DecodingResult>(m, "DecodingResult", "The best candidate for one recording.")
      .def_readonly("tokens", &DecodingResult::tokens)
      .def_readonly("sum_logprob", &DecodingResult::sum_logprob)
      .def_readonly("no_speech_prob", &DecodingResult::no_speech_prob);

  m.def("decode",
        torch::wrap_pybind_function_no_gil([](const model::Whisper& whisper, const model::AudioMemory& memory,
                                              const std::vector<decoding::Sequence>& initial_tokens,
                                              const DecodingOptions& options, PyControl& control) {
          return decoding::decode(whisper, memory, initial_tokens, options, control);
        }),
        py::arg("model"), py::arg("memory"), py::arg("initial_tokens"), py::arg("options"),
        py::arg("control"), R"pbdoc(
Decodes windows of 30 seconds.

memory: remember() of the windows, initial_tokens: one list of token ids per recording, all of one length.
Returns the best candidate of every recording.
)pbdoc");
}

}  // namespace torchwhisper::bindings
