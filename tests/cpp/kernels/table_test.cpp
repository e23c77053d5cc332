#include "csrc/kernels/table.h"

#include <gtest/gtest.h>

namespace torchwhisper::kernels {
namespace {

TEST(KernelTable, TheBestOneIsUsed) {
  EXPECT_EQ(&kernels(), kernels_for(best_isa()));
  EXPECT_NE(kernels_for(Isa::kBaseline), nullptr);
}

TEST(KernelTable, NothingAboveTheBestIsGivenOut) {
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    EXPECT_EQ(kernels_for(isa) == nullptr, isa > best_isa());
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
