#pragma once

#include <Python.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <utility>

#include "csrc/common/control.h"

namespace torchwhisper::bindings {

/// The Control that Python callers get: it lets Ctrl-C through while C++ runs without the GIL and
/// passes progress to an optional Python callable `progress(stage: str, done: int)`.
class PyControl : public common::Control {
 public:
  explicit PyControl(pybind11::object progress = pybind11::none());
  ~PyControl() override;
  PyControl(const PyControl&) = delete;
  PyControl& operator=(const PyControl&) = delete;

 protected:
  void on_step(common::Stage stage, std::int64_t done) override;
  [[noreturn]] void leave() const override;

 private:
  pybind11::object progress_;
  std::chrono::steady_clock::time_point last_poll_{};
};

/// Defines the Python exception `Cancelled`, which a PyControl raises.
void bind_cancelled(pybind11::module_& m);

}  // namespace torchwhisper::bindings
