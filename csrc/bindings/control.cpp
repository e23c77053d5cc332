#include "csrc/bindings/control.h"

#include <pybind11/gil_safe_call_once.h>

namespace torchwhisper::bindings {
namespace {

// How long Python may wait for its signal handlers.
constexpr std::chrono::milliseconds kPollInterval{20};

const char* stage_name(common::Stage stage) {
  switch (stage) {
    case common::Stage::kEncode:
      return "encode";
    case common::Stage::kDecode:
      return "decode";
    case common::Stage::kAlign:
      return "align";
    case common::Stage::kAudio:
      return "audio";
    case common::Stage::kPrepare:
      return "prepare";
  }
  return "unknown";
}

PYBIND11_CONSTINIT pybind11::gil_safe_call_once_and_store<pybind11::object> cancelled_type;

// torch makes a RuntimeError of every C++ exception but those of pybind11.
class Cancelled : public pybind11::builtin_exception {
 public:
  Cancelled() : builtin_exception("the computation was cancelled") {}
  void set_error() const override { pybind11::set_error(cancelled_type.get_stored(), what()); }
};

}  // namespace

void bind_cancelled(pybind11::module_& m) {
  cancelled_type.call_once_and_store_result(
      [&] { return pybind11::exception<Cancelled>(m, "Cancelled", PyExc_Exception); });
}

PyControl::PyControl(pybind11::object progress) : progress_(std::move(progress)) {}

PyControl::~PyControl() = default;

void PyControl::on_step(common::Stage stage, std::int64_t done) {
  const auto now = std::chrono::steady_clock::now();
  const bool poll = now - last_poll_ >= kPollInterval;
  if (!poll && progress_.is_none()) {
    return;
  }
  pybind11::gil_scoped_acquire gil;
  if (poll) {
    last_poll_ = now;
    if (PyErr_CheckSignals() != 0) {
      throw pybind11::error_already_set();
    }
  }
  if (!progress_.is_none()) {
    progress_(stage_name(stage), done);
  }
}

void PyControl::leave() const { throw Cancelled(); }

}  // namespace torchwhisper::bindings
