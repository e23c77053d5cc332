#pragma once

#include <cstdint>

#include "csrc/common/control.h"

namespace torchwhisper::testing {

/// Counts the occasions on which a computation could be stopped.
class StepCounter : public common::Control {
 public:
  std::int64_t steps = 0;

 protected:
  void on_step(common::Stage /*stage*/, std::int64_t /*done*/) override { ++steps; }
};

}  // namespace torchwhisper::testing
