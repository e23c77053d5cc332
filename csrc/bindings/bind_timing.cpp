#include "csrc/bindings/bind.h"

namespace torchwhisper::bindings {

void bind_timing(pybind11::module_& /*m*/) {}

}  // namespace torchwhisper::bindings
