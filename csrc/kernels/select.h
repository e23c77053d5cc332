#pragma once

#include <cstdint>
#include <vector>

#include "csrc/common/api.h"

namespace torchwhisper::kernels {

struct Ranked {
  float value;
  std::int64_t index;
};

/// The k largest of n numbers, largest first; of equal ones the first comes first. Fewer than k where n is
/// smaller. No NaN.
TORCHWHISPER_API std::vector<Ranked> largest(const float* x, std::int64_t n, std::int64_t k);

/// The indices of the finite numbers that are at least `least`, in order.
TORCHWHISPER_API std::vector<std::int64_t> at_least(const float* x, std::int64_t n, float least);

}  // namespace torchwhisper::kernels
