#pragma once

#include <gtest/gtest.h>

#include "csrc/kernels/table.h"

namespace torchwhisper::kernels {

/// A test for every instruction set; those that this machine lacks are skipped by name.
class EveryIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    table_ = kernels_for(GetParam());
    if (table_ == nullptr) {
      GTEST_SKIP() << "this machine does not have this instruction set";
    }
  }

  const KernelTable* table_ = nullptr;
};

inline constexpr Isa kAllIsas[] = {Isa::kBaseline,   Isa::kAvx2,       Isa::kAvx2Vnni, Isa::kAvx512,
                                   Isa::kAvx512Vnni, Isa::kAvx512Bf16, Isa::kAmx};

inline const auto kEveryIsa = ::testing::ValuesIn(kAllIsas);

inline std::string isa_name(const ::testing::TestParamInfo<Isa>& info) {
  constexpr const char* kNames[] = {"Baseline",   "Avx2",       "Avx2Vnni", "Avx512",
                                    "Avx512Vnni", "Avx512Bf16", "Amx"};
  return kNames[static_cast<int>(info.param)];
}

}  // namespace torchwhisper::kernels
