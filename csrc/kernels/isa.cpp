#include "csrc/kernels/isa.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace torchwhisper::kernels {
namespace {

#if defined(__x86_64__)

// One leaf of what the processor says of itself.
struct Leaf {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;

  Leaf(unsigned leaf, unsigned subleaf) { __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx); }
};

bool has_bit(unsigned value, int bit) { return (value >> bit & 1U) != 0; }

// The tiles are large, so Linux gives them only to a program that asks.
bool ask_for_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool processor_has(Isa isa) {
  const Leaf features(7, 0);
  const Leaf more(7, 1);
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_bit(Leaf(1, 0).ecx, 29);  // F16C
  switch (isa) {
    case Isa::kBaseline:
      return true;
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx2Vnni:
      return avx2 && has_bit(more.eax, 4);
    case Isa::kAvx512:
      return avx2 && avx512;
    case Isa::kAvx512Vnni:
      return processor_has(Isa::kAvx512) && has_bit(features.ecx, 11);
    case Isa::kAvx512Bf16:
      return processor_has(Isa::kAvx512Vnni) && has_bit(more.eax, 5);
    case Isa::kAmx:
      return processor_has(Isa::kAvx512Bf16) && has_bit(features.ecx, 1) && has_bit(features.edx, 22) &&
             has_bit(features.edx, 24) && has_bit(features.edx, 25) && ask_for_tiles();
  }
  return false;
}

#else

bool processor_has(Isa isa) { return isa == Isa::kBaseline; }

#endif

// By oneDNN's names; what is not named here (ALL, DEFAULT, later ones) allows everything.
Isa allowed_isa() {
  struct Limit {
    const char* name;
    Isa isa;
  };
  constexpr Limit kLimits[] = {{"SSE41", Isa::kBaseline},
                               {"AVX", Isa::kBaseline},
                               {"AVX2", Isa::kAvx2},
                               {"AVX2_VNNI", Isa::kAvx2Vnni},
                               {"AVX2_VNNI_2", Isa::kAvx2Vnni},
                               {"AVX512_CORE", Isa::kAvx512},
                               {"AVX512_CORE_VNNI", Isa::kAvx512Vnni},
                               {"AVX512_CORE_BF16", Isa::kAvx512Bf16},
                               {"AVX512_CORE_FP16", Isa::kAvx512Bf16},
                               {"AVX10_1_512", Isa::kAvx512Bf16}};
  const char* value = std::getenv("ONEDNN_MAX_CPU_ISA");
  std::string name(value == nullptr ? "" : value);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  for (const Limit& limit : kLimits) {
    if (name == limit.name) {
      return limit.isa;
    }
  }
  return Isa::kAmx;
}

constexpr auto kCount = static_cast<std::size_t>(Isa::kAmx) + 1;

std::array<bool, kCount> granted() {
  std::array<bool, kCount> all{};
  const auto allowed = static_cast<std::size_t>(allowed_isa());
  for (std::size_t i = 0; i <= allowed; ++i) {
    all[i] = processor_has(static_cast<Isa>(i));
  }
  return all;
}

}  // namespace

bool has_isa(Isa isa) {
  static const std::array<bool, kCount> all = granted();
  return all[static_cast<std::size_t>(isa)];
}

Isa best_isa() {
  static const Isa best = [] {
    Isa found = Isa::kBaseline;
    for (std::size_t i = 0; i < kCount; ++i) {
      if (has_isa(static_cast<Isa>(i))) {
        found = static_cast<Isa>(i);
      }
    }
    return found;
  }();
  return best;
}

}  // namespace torchwhisper::kernels
