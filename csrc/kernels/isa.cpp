#include "csrc/kernels/isa.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>
#include <string_view>

namespace torchwhisper::kernels {
namespace {

Isa processor_isa() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx2) {
    return avx512 ? Isa::kAvx512 : Isa::kAvx2;
  }
#endif
  return Isa::kBaseline;
}

// oneDNN's names: SSE41, AVX, AVX2, AVX2_VNNI..., AVX512_CORE..., AVX10..., ALL, DEFAULT.
Isa allowed_isa() {
  const char* value = std::getenv("ONEDNN_MAX_CPU_ISA");
  std::string name(value == nullptr ? "" : value);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (name == "SSE41" || name == "AVX") {
    return Isa::kBaseline;
  }
  return std::string_view(name).starts_with("AVX2") ? Isa::kAvx2 : Isa::kAvx512;
}

}  // namespace

Isa best_isa() {
  static const Isa best = std::min(processor_isa(), allowed_isa());
  return best;
}

}  // namespace torchwhisper::kernels
