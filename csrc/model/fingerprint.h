#pragma once

#include <torch/nn/module.h>

#include <cstdint>

#include "csrc/common/api.h"
#include "csrc/common/control.h"

namespace torchwhisper::model {

/// A 64-bit checksum (XXH3) over the bytes of all parameters and buffers of a module. Optimizers,
/// `p.data` and numpy change weights without a trace in torch's version counters; their bytes tell.
TORCHWHISPER_API std::uint64_t fingerprint(const torch::nn::Module& module,
                                           common::Control& control = common::unstoppable());

}  // namespace torchwhisper::model
