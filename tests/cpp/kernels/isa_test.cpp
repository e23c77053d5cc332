#include "csrc/kernels/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace torchwhisper::kernels {
namespace {

// In a process of its own, since the choice is made once.
Isa best_under(const char* limit) {
  Isa best = Isa::kBaseline;
  EXPECT_EXIT(
      {
        setenv("ONEDNN_MAX_CPU_ISA", limit, 1);
        std::exit(static_cast<int>(best_isa()));
      },
      [&best](int status) {
        best = static_cast<Isa>(WEXITSTATUS(status));
        return WIFEXITED(status);
      },
      "");
  return best;
}

class IsaTest : public ::testing::Test {
 protected:
  // The child runs this test again from its start, before anybody has asked for the best one.
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(IsaTest, FollowsOneDnnsLimit) {
  EXPECT_EQ(best_under("SSE41"), Isa::kBaseline);
  EXPECT_LE(best_under("AVX2"), Isa::kAvx2);
  EXPECT_LE(best_under("avx2_vnni"), Isa::kAvx2Vnni);
  EXPECT_LE(best_under("AVX512_CORE"), Isa::kAvx512);
  EXPECT_LE(best_under("AVX512_CORE_VNNI"), Isa::kAvx512Vnni);
  EXPECT_LE(best_under("AVX512_CORE_BF16"), Isa::kAvx512Bf16);
  EXPECT_LE(best_under("AVX10_1_512"), Isa::kAvx512Bf16);
  EXPECT_EQ(best_under("ALL"), best_under("DEFAULT"));
  EXPECT_EQ(best_under("AVX512_CORE_AMX"), best_under("ALL"));
  EXPECT_GE(best_under("AVX512_CORE"), best_under("AVX2"));
}

}  // namespace
}  // namespace torchwhisper::kernels
