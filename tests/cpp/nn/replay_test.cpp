#include "csrc/nn/replay.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

namespace torchwhisper::nn {
namespace {

TEST(Replay, RandomStateIsPutBackAndThenForward) {
  at::manual_seed(5);
  const at::Tensor state = random_state(at::kCPU);
  const at::Tensor first = at::rand({3});
  const at::Tensor after = random_state(at::kCPU);
  {
    const RandomStateGuard again(at::kCPU, state);
    EXPECT_TRUE(at::rand({3}).equal(first));
  }
  EXPECT_TRUE(random_state(at::kCPU).equal(after));
}

TEST(Replay, AutocastIsPutBackAndThenAsItWas) {
  const bool enabled_before = at::autocast::is_autocast_enabled(at::kCPU);
  const at::ScalarType dtype_before = at::autocast::get_autocast_dtype(at::kCPU);
  {
    const AutocastGuard as_forward({at::kCPU, true, at::kHalf});
    EXPECT_TRUE(at::autocast::is_autocast_enabled(at::kCPU));
    EXPECT_EQ(at::matmul(at::ones({2, 2}), at::ones({2, 2})).scalar_type(), at::kHalf);
    EXPECT_FALSE(at::autocast::is_autocast_cache_enabled());
  }
  EXPECT_EQ(at::autocast::is_autocast_enabled(at::kCPU), enabled_before);
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), dtype_before);
  EXPECT_TRUE(at::autocast::is_autocast_cache_enabled());
}

}  // namespace
}  // namespace torchwhisper::nn
