#include "csrc/kernels/table.h"

namespace torchwhisper::kernels {

// Defined by implementation/, compiled once for each.
namespace baseline {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx2_vnni {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512_vnni {
extern const KernelTable table;
}
namespace avx512_bf16 {
extern const KernelTable table;
}
namespace amx {
extern const KernelTable table;
}
#endif

const KernelTable* kernels_for(Isa isa) {
  if (!has_isa(isa)) {
    return nullptr;
  }
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAmx:
      return &amx::table;
    case Isa::kAvx512Bf16:
      return &avx512_bf16::table;
    case Isa::kAvx512Vnni:
      return &avx512_vnni::table;
    case Isa::kAvx512:
      return &avx512::table;
    case Isa::kAvx2Vnni:
      return &avx2_vnni::table;
    case Isa::kAvx2:
      return &avx2::table;
#endif
    default:
      return &baseline::table;
  }
}

const KernelTable& kernels() {
  static const KernelTable& best = *kernels_for(best_isa());
  return best;
}

}  // namespace torchwhisper::kernels
