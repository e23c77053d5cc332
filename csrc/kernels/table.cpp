#include "csrc/kernels/table.h"

namespace torchwhisper::kernels {

// Defined by implementation.cpp, compiled once for each.
namespace baseline {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

const KernelTable* kernels_for(Isa isa) {
  if (isa > best_isa()) {
    return nullptr;
  }
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return &avx512::table;
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
