#include "csrc/bindings/bind.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "The C++ engine of torchwhisper. Import torch first.";
  torchwhisper::bindings::bind_common(m);
  torchwhisper::bindings::bind_audio(m);
  torchwhisper::bindings::bind_model(m);
  torchwhisper::bindings::bind_decoding(m);
  torchwhisper::bindings::bind_timing(m);
}
