#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "csrc/bindings/bind.h"
#include "csrc/bindings/control.h"
#include "csrc/model/fingerprint.h"
#include "csrc/model/whisper.h"
#include "csrc/nn/compute_type.h"
#include "csrc/timing/alignment.h"

namespace py = pybind11;

namespace torchwhisper::bindings {
namespace {

using Sizes = std::unordered_map<std::string, std::int64_t>;
using NamedParameters = std::vector<std::pair<std::string, at::Tensor>>;

// Sizes that the caller does not give are 0: an encoder needs only its own.
model::ModelDimensions to_dimensions(const Sizes& sizes) {
  const auto size = [&](const char* name) {
    const auto found = sizes.find(name);
    return found == sizes.end() ? 0 : found->second;
  };
  return {size("n_mels"),        size("n_audio_ctx"), size("n_audio_state"), size("n_audio_head"),
          size("n_audio_layer"), size("n_vocab"),     size("n_text_ctx"),    size("n_text_state"),
          size("n_text_head"),   size("n_text_layer")};
}

NamedParameters named_parameters(const torch::nn::Module& module) {
  NamedParameters named;
  for (const auto& item : module.named_parameters()) {
    named.emplace_back(item.key(), item.value());
  }
  return named;
}

at::ScalarType to_dtype(const py::object& dtype) { return py::cast<at::ScalarType>(dtype); }

nn::BlockTraining to_training(const std::string& policy, std::int64_t every, double stochastic_depth) {
  TORCH_CHECK_VALUE(every >= 1, "every is ", every, ", expected at least 1");
  TORCH_CHECK_VALUE(stochastic_depth >= 0 && stochastic_depth < 1, "stochastic_depth is ", stochastic_depth,
                    ", expected a probability below 1");
  return {nn::to_checkpoint_policy(policy), every, stochastic_depth};
}

// So many rows of logits at a time: all of them would be the largest tensor of a transcription.
constexpr std::int64_t kLogitRows = 64;

std::vector<double> text_probabilities(model::Whisper& whisper, const at::Tensor& hidden,
                                       const std::vector<std::int64_t>& text_tokens, std::int64_t eot,
                                       PyControl& control) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(text_tokens.size());
  TORCH_CHECK_VALUE(hidden.dim() == 2 && hidden.size(0) == count, "the hidden states have shape ",
                    hidden.sizes(), ", expected one for each of ", count, " tokens");
  std::vector<double> probabilities;
  for (std::int64_t first = 0; first < count; first += kLogitRows) {
    const std::int64_t n = std::min(kLogitRows, count - first);
    const std::vector<std::int64_t> some(text_tokens.begin() + first, text_tokens.begin() + first + n);
    const at::Tensor logits = whisper->decoder->project(hidden.narrow(0, first, n));
    const auto found = timing::token_probabilities(logits, some, /*sot_length=*/0, eot);
    probabilities.insert(probabilities.end(), found.begin(), found.end());
    control.step(common::Stage::kAlign, 0);
  }
  return probabilities;
}

void bind_encoder(py::module_& m) {
  py::class_<model::AudioEncoder>(m, "AudioEncoder", R"pbdoc(
The audio half of Whisper on adopted tensors.

dims: the sizes n_mels and n_audio_*. tensors: by state_dict key below "encoder.".
)pbdoc")
      .def(py::init([](const Sizes& dims, const nn::NamedTensors& tensors) {
             return torch::wrap_pybind_function(
                 [&] { return model::AudioEncoder(to_dimensions(dims), nn::Weights(tensors)); })();
           }),
           py::arg("dims"), py::arg("tensors"))
      .def("forward",
           torch::wrap_pybind_function_no_gil([](model::AudioEncoder& self, const at::Tensor& mel,
                                                 PyControl& control, const std::string& policy,
                                                 std::int64_t every, double stochastic_depth) {
             return self->forward(mel, control, to_training(policy, every, stochastic_depth));
           }),
           py::arg("mel"), py::arg("control"), py::arg("policy") = "", py::arg("every") = 1,
           py::arg("stochastic_depth") = 0.0,
           "mel [batch, n_mels, 2 * n_audio_ctx] -> features [batch, n_audio_ctx, n_audio_state].")
      .def("named_parameters", [](model::AudioEncoder& self) { return named_parameters(*self); });
}

void bind_decoder(py::module_& m) {
  py::class_<model::TextDecoder>(m, "TextDecoder", R"pbdoc(
The text half of Whisper on adopted tensors.

dims: the sizes n_vocab and n_text_*. tensors: by state_dict key below "decoder.".
)pbdoc")
      .def(py::init([](const Sizes& dims, const nn::NamedTensors& tensors) {
             return torch::wrap_pybind_function(
                 [&] { return model::TextDecoder(to_dimensions(dims), nn::Weights(tensors)); })();
           }),
           py::arg("dims"), py::arg("tensors"))
      .def(
          "forward",
          torch::wrap_pybind_function_no_gil(
              [](model::TextDecoder& self, const at::Tensor& tokens, const at::Tensor& features,
                 PyControl& control, const std::string& policy, std::int64_t every, double stochastic_depth) {
                return self->forward(tokens, features, control, to_training(policy, every, stochastic_depth));
              }),
          py::arg("tokens"), py::arg("audio_features"), py::arg("control"), py::arg("policy") = "",
          py::arg("every") = 1, py::arg("stochastic_depth") = 0.0,
          "tokens [batch, time], features [batch, frame, n_state] -> logits [batch, time, n_vocab] float32.")
      .def(
          "hidden",
          torch::wrap_pybind_function_no_gil(
              [](model::TextDecoder& self, const at::Tensor& tokens, const at::Tensor& features,
                 PyControl& control, const std::string& policy, std::int64_t every, double stochastic_depth) {
                return self->hidden(tokens, features, control, to_training(policy, every, stochastic_depth));
              }),
          py::arg("tokens"), py::arg("audio_features"), py::arg("control"), py::arg("policy") = "",
          py::arg("every") = 1, py::arg("stochastic_depth") = 0.0,
          "forward without the tied head -> [batch, time, n_state].")
      .def("named_parameters", [](model::TextDecoder& self) { return named_parameters(*self); });
}

void bind_whisper(py::module_& m) {
  py::class_<model::Whisper>(m, "Whisper", R"pbdoc(
Whisper on adopted tensors: changing a parameter in place changes it here.

dims: ModelDimensions as a dict. tensors: the whole state_dict.
)pbdoc")
      .def(py::init([](const Sizes& dims, const nn::NamedTensors& tensors) {
             return torch::wrap_pybind_function(
                 [&] { return model::Whisper(to_dimensions(dims), tensors); })();
           }),
           py::arg("dims"), py::arg("tensors"))
      .def("forward",
           torch::wrap_pybind_function_no_gil(
               [](model::Whisper& self, const at::Tensor& mel, const at::Tensor& tokens, PyControl& control) {
                 return self->forward(mel, tokens, control);
               }),
           py::arg("mel"), py::arg("tokens"), py::arg("control"))
      .def("embed_audio",
           torch::wrap_pybind_function_no_gil(
               [](model::Whisper& self, const at::Tensor& mel, PyControl& control) {
                 return self->embed_audio(mel, control);
               }),
           py::arg("mel"), py::arg("control"),
           "mel [batch, n_mels, 2 * n_audio_ctx] -> features [batch, n_audio_ctx, n_audio_state].")
      .def("logits",
           torch::wrap_pybind_function_no_gil(
               [](model::Whisper& self, const at::Tensor& tokens, const at::Tensor& features,
                  PyControl& control) { return self->logits(tokens, features, control); }),
           py::arg("tokens"), py::arg("audio_features"), py::arg("control"))
      .def("remember",
           torch::wrap_pybind_function_no_gil(
               [](model::Whisper& self, const at::Tensor& features, PyControl& control) {
                 const at::NoGradGuard no_grad;
                 return self->decoder->remember(features, control);
               }),
           py::arg("audio_features"), py::arg("control"),
           "Keys and values of features [n_audio, frame, n_state], for decode() and cross_attention().")
      .def(
          "prepare",
          [](model::Whisper& self, const py::object& dtype, const std::string& compute_type,
             PyControl& control) {
            const at::ScalarType activations = to_dtype(dtype);
            torch::wrap_pybind_function_no_gil([&] {
              self->prepare({activations, nn::to_compute_type(compute_type)}, control);
            })();
          },
          py::arg("dtype"), py::arg("compute_type"), py::arg("control"), R"pbdoc(
Derives weights for inference; they do not follow later changes.

dtype: of the activations. compute_type: float32 multiplies in dtype, bfloat16 and int8 (float32 activations
on a CPU only) round the weights and the inputs of products. Raises ValueError for a type that this processor
does not multiply fast.
)pbdoc")
      .def("fingerprint", torch::wrap_pybind_function_no_gil([](model::Whisper& self, PyControl& control) {
             return model::fingerprint(*self, control);
           }),
           py::arg("control"), "A checksum over the bytes of all parameters and buffers.")
      .def("named_parameters", [](model::Whisper& self) { return named_parameters(*self); });
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<model::AudioMemory>(m, "AudioMemory", "What the decoder keeps of a batch of windows.");
  bind_encoder(m);
  bind_decoder(m);
  bind_whisper(m);
  m.def("compute_type_obstacle",
        torch::wrap_pybind_function([](const std::string& compute_type) -> std::optional<std::string> {
          const std::string_view obstacle = nn::compute_type_obstacle(nn::to_compute_type(compute_type));
          return obstacle.empty() ? std::nullopt : std::optional<std::string>(obstacle);
        }),
        py::arg("compute_type"),
        "Why this processor does not compute in float32, bfloat16 or int8 fast, in a sentence; None if it "
        "does.");
  m.def(
      "supported_compute_types",
      [] {
        std::vector<std::string> supported;
        for (const char* name : {"float32", "bfloat16", "int8"}) {
          if (nn::compute_type_obstacle(nn::to_compute_type(name)).empty()) {
            supported.emplace_back(name);
          }
        }
        return supported;
      },
      "Those that compute_type_obstacle() says nothing against.");
  m.def("cross_attention",
        torch::wrap_pybind_function_no_gil(
            [](model::Whisper& whisper, const at::Tensor& tokens, const model::AudioMemory& memory,
               const std::vector<std::pair<std::int64_t, std::int64_t>>& heads, PyControl& control) {
              const at::NoGradGuard no_grad;
              auto aligned = whisper->decoder->forward_with_scores(tokens, memory, heads, control);
              return std::make_pair(aligned.hidden, aligned.scores);
            }),
        py::arg("model"), py::arg("tokens"), py::arg("memory"), py::arg("heads"), py::arg("control"),
        R"pbdoc(
Runs the decoder over one whole sequence with explicit attention.

tokens: [1, time] int64, memory: remember() of one window, heads: pairs (layer, head).
Returns (hidden states [time, n_state], cross-attention before the softmax [heads, time, frame]).
)pbdoc");
  m.def("text_probabilities", torch::wrap_pybind_function_no_gil(&text_probabilities), py::arg("model"),
        py::arg("hidden"), py::arg("text_tokens"), py::arg("eot"), py::arg("control"),
        "token_probabilities() of the hidden states [tokens, n_state] that each text token follows.");
}

}  // namespace torchwhisper::bindings
