#include <stdexcept>
#include <string>

#include "csrc/bindings/bind.h"
#include "csrc/bindings/control.h"
#include "csrc/common/control.h"
#include "csrc/common/logging.h"

namespace py = pybind11;

namespace torchwhisper::bindings {
namespace {

common::LogLevel parse_level(const std::string& name) {
  static const std::pair<const char*, common::LogLevel> kLevels[] = {
      {"trace", common::LogLevel::kTrace}, {"debug", common::LogLevel::kDebug},
      {"info", common::LogLevel::kInfo},   {"warning", common::LogLevel::kWarning},
      {"error", common::LogLevel::kError}, {"off", common::LogLevel::kOff}};
  for (const auto& [known, level] : kLevels) {
    if (name == known) {
      return level;
    }
  }
  throw std::invalid_argument("log level is '" + name +
                              "', expected one of trace, debug, info, warning, error, off");
}

}  // namespace

void bind_common(py::module_& m) {
  bind_cancelled(m);
  py::class_<common::Control>(m, "_ControlBase");
  py::class_<PyControl, common::Control>(m, "Control", R"pbdoc(
Cancels a running computation, which then raises Cancelled, and watches its progress.

progress: called as progress(stage, done) with stage one of "encode", "decode", "align", "audio".
)pbdoc")
      .def(py::init<py::object>(), py::arg("progress") = py::none())
      .def("cancel", &PyControl::cancel)
      .def_property_readonly("cancelled", &PyControl::cancelled);
  m.def(
      "set_log_level", [](const std::string& name) { common::set_log_level(parse_level(name)); },
      py::arg("level"), "Drop engine messages below this level: trace, debug, info, warning, error or off.");
}

}  // namespace torchwhisper::bindings
