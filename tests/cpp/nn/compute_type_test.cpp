#include "csrc/nn/compute_type.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

namespace torchwhisper::nn {
namespace {

TEST(ComputeType, IsGivenByName) {
  EXPECT_EQ(to_compute_type("float32"), ComputeType::kFloat32);
  EXPECT_EQ(to_compute_type("bfloat16"), ComputeType::kBFloat16);
  EXPECT_EQ(to_compute_type("int8"), ComputeType::kInt8);
  EXPECT_THROW(to_compute_type("float64"), c10::ValueError);
}

TEST(ComputeType, NothingSpeaksAgainstFloat32) {
  EXPECT_EQ(compute_type_obstacle(ComputeType::kFloat32), "");
}

}  // namespace
}  // namespace torchwhisper::nn
