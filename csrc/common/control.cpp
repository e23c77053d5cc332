#include "csrc/common/control.h"

namespace torchwhisper::common {

Cancelled::Cancelled() : std::runtime_error("the computation was cancelled") {}

Control::~Control() = default;

void Control::step(Stage stage, std::int64_t done) {
  on_step(stage, done);
  if (cancelled()) {
    leave();
  }
}

void Control::on_step(Stage /*stage*/, std::int64_t /*done*/) {}

void Control::leave() const { throw Cancelled(); }

Control& unstoppable() noexcept {
  static Control control;
  return control;
}

}  // namespace torchwhisper::common
