#include <torch/csrc/Exceptions.h>

#include <pybind11/stl.h>

#include "csrc/bindings/bind.h"
#include "csrc/timing/alignment.h"
#include "csrc/timing/dtw.h"
#include "csrc/timing/median_filter.h"

namespace py = pybind11;

namespace torchwhisper::bindings {

void bind_timing(py::module_& m) {
  m.def("dtw", torch::wrap_pybind_function_no_gil(&timing::dtw), py::arg("cost"), py::arg("control"),
        "The cheapest monotone path through cost [tokens, frames], as int64 [2, length].");
  m.def("backtrace", torch::wrap_pybind_function_no_gil(&timing::backtrace), py::arg("trace"),
        "Follow the moves of trace, int8 [tokens + 1, frames + 1], from the last cell to the first.");
  m.def("median_filter", torch::wrap_pybind_function_no_gil(&timing::median_filter), py::arg("x"),
        py::arg("width"), "Median filter along the last dimension, mirrored at the ends.");
  m.def("align",
        torch::wrap_pybind_function_no_gil([](const at::Tensor& qk, std::int64_t sot_length,
                                              std::int64_t num_frames, std::int64_t medfilt_width,
                                              double qk_scale, common::Control& control) {
          return timing::align(qk, {sot_length, num_frames, medfilt_width, qk_scale}, control);
        }),
        py::arg("qk"), py::arg("sot_length"), py::arg("num_frames"), py::arg("medfilt_width"),
        py::arg("qk_scale"), py::arg("control"), R"pbdoc(
Align text with time by the attention scores qk [heads, tokens, frames]; num_frames counts encoder frames.

Returns int64 [2, length]: text row (0 is <|notimestamps|>) and frame of every step of the path.
)pbdoc");
  m.def("token_probabilities", torch::wrap_pybind_function_no_gil(&timing::token_probabilities),
        py::arg("logits"), py::arg("text_tokens"), py::arg("sot_length"), py::arg("eot"),
        "The probability of each text token among the tokens below eot; logits [tokens, vocabulary].");
}

}  // namespace torchwhisper::bindings
