#include "csrc/kernels/table.h"

#include <gtest/gtest.h>

#include "tests/cpp/kernels/every_isa.h"

namespace torchwhisper::kernels {
namespace {

TEST(KernelTable, TheBestOneIsUsed) {
  EXPECT_EQ(&kernels(), kernels_for(best_isa()));
  EXPECT_NE(kernels_for(Isa::kBaseline), nullptr);
}

TEST(KernelTable, OnlyWhatTheProcessorHasIsGivenOut) {
  for (const Isa isa : kAllIsas) {
    EXPECT_EQ(kernels_for(isa) != nullptr, has_isa(isa));
    EXPECT_FALSE(has_isa(isa) && isa > best_isa());
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
