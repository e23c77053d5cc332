#include "csrc/nn/recorded_block.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "csrc/nn/block.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

TEST(RecordedBlock, IsTheBlock) {
  for (const bool cross : {false, true}) {
    NamedTensors tensors;
    torchwhisper::testing::add_block(tensors, "block", 12, cross);
    const Weights weights(tensors);
    ResidualAttentionBlock block(weights["block"], 12, 3, cross);
    const at::Tensor x = at::randn({2, 6, 12});
    const at::Tensor features = cross ? at::randn({2, 9, 12}) : at::Tensor();
    const at::Tensor expected = cross ? block->decode(x, features) : block->encode(x);
    EXPECT_LT(
        torchwhisper::testing::relative_error(recorded_block(x, features, block->weights(), 3), expected),
        1e-6);
  }
}

}  // namespace
}  // namespace torchwhisper::nn
