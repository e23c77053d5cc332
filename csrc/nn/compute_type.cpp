#include "csrc/nn/compute_type.h"

#include <c10/util/Exception.h>

#include "csrc/kernels/words.h"

namespace torchwhisper::nn {

ComputeType to_compute_type(const std::string& name) {
  if (name == "float32") {
    return ComputeType::kFloat32;
  }
  if (name == "bfloat16") {
    return ComputeType::kBFloat16;
  }
  TORCH_CHECK_VALUE(name == "int8", "compute type is '", name, "', expected float32, bfloat16 or int8");
  return ComputeType::kInt8;
}

std::string_view compute_type_obstacle(ComputeType type) {
  if (type == ComputeType::kBFloat16 && !kernels::multiplies_fast(kernels::WordType::kBfloat16)) {
    return "bfloat16 needs a processor with AVX512-BF16 or AMX, and this one has neither or may not use it: "
           "take int8 or float32";
  }
  if (type == ComputeType::kInt8 && !kernels::multiplies_fast(kernels::WordType::kInt8)) {
    return "int8 needs a processor with AVX2, and this one has none or may not use it: take float32";
  }
  return "";
}

}  // namespace torchwhisper::nn
