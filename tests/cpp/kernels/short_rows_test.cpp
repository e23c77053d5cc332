#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "csrc/kernels/table.h"
#include "tests/cpp/kernels/every_isa.h"

namespace torchwhisper::kernels {
namespace {

class ShortRows : public EveryIsa {
 protected:
  void SetUp() override {
    EveryIsa::SetUp();
    if (table_ != nullptr && table_->shorten_row == nullptr) {
      GTEST_SKIP() << "this instruction set does not multiply bfloat16";
    }
  }

  static constexpr std::int64_t kWords = 112;  // for up to 224 numbers
  at::Tensor shortened_ = at::full({2 * kWords}, 7.0F, at::kBFloat16);
  std::uint32_t* words() { return static_cast<std::uint32_t*>(shortened_.mutable_data_ptr()); }
};
INSTANTIATE_TEST_SUITE_P(Isa, ShortRows, kEveryIsa, isa_name);

TEST_P(ShortRows, RoundToTheNearestAndFillUpWithZeros) {
  for (const std::int64_t n : {1, 15, 16, 33, 224}) {
    const at::Tensor x = at::randn({n}) * 100;
    table_->shorten_row(x.const_data_ptr<float>(), n, kWords, words());
    EXPECT_TRUE(shortened_.slice(0, 0, n).equal(x.to(at::kBFloat16))) << n;
    EXPECT_TRUE(shortened_.slice(0, n).eq(0).all().item<bool>()) << n;
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
