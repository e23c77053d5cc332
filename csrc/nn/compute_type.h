#pragma once

#include <c10/core/ScalarType.h>

#include <string>
#include <string_view>

#include "csrc/common/api.h"

namespace torchwhisper::nn {

/// The type that prepared weights are kept and multiplied in on a CPU.
///
/// kFloat32 computes in the type of the activations. With the others the activations between layers are
/// float32, as are normalisation, softmax, GELU and residual sums: kBFloat16 rounds weights and the inputs of
/// products; kInt8 rounds weights to a multiple of each output's largest / 127 and the inputs, when they are
/// there, to one of each row's.
enum class ComputeType { kFloat32, kBFloat16, kInt8 };

/// What weights are prepared for.
struct Precision {
  at::ScalarType activations;
  ComputeType products = ComputeType::kFloat32;

  // NOLINTNEXTLINE(google-explicit-constructor): most layers are prepared for one type alone
  Precision(at::ScalarType both) : activations(both) {}
  Precision(at::ScalarType dtype, ComputeType type) : activations(dtype), products(type) {}
};

/// "float32", "bfloat16" or "int8". Throws ValueError for other names.
TORCHWHISPER_API ComputeType to_compute_type(const std::string& name);

/// Why this processor cannot compute in the type faster than in float32, in a sentence; empty if it can.
TORCHWHISPER_API std::string_view compute_type_obstacle(ComputeType type);

}  // namespace torchwhisper::nn
