#include <torch/version.h>

#include "csrc/bindings/bind.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "The C++ engine of torchwhisper. Import torch first.";
  m.attr("torch_version") = TORCH_VERSION;  // what it was built with: the package compares
  torchwhisper::bindings::bind_common(m);
  torchwhisper::bindings::bind_audio(m);
  torchwhisper::bindings::bind_model(m);
  torchwhisper::bindings::bind_decoding(m);
  torchwhisper::bindings::bind_timing(m);
}
