#include "csrc/nn/weights.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace torchwhisper::nn {
namespace {

TEST(Weights, TakesTheTensorItself) {
  const NamedTensors tensors{{"a.b.weight", at::ones({2, 3})}};
  const at::Tensor taken = Weights(tensors)["a"]["b"].take("weight", {2, 3});
  EXPECT_TRUE(taken.is_same(tensors.at("a.b.weight")));
}

TEST(Weights, NamesTheKeyThatIsMissing) {
  const NamedTensors tensors;
  try {
    Weights(tensors)["encoder"].take("conv1.weight", {1});
    FAIL() << "a missing tensor went unnoticed";
  } catch (const c10::ValueError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("encoder.conv1.weight"));
  }
}

TEST(Weights, NamesTheShapeThatDiffers) {
  const NamedTensors tensors{{"weight", at::ones({2, 3})}};
  try {
    Weights(tensors).take("weight", {3, 2});
    FAIL() << "a wrong shape went unnoticed";
  } catch (const c10::ValueError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("[2, 3]"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("[3, 2]"));
  }
}

}  // namespace
}  // namespace torchwhisper::nn
