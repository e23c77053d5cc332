#include "csrc/nn/huge_pages.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace torchwhisper::nn {
namespace {

std::uintptr_t address(const at::Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
}

TEST(EmptyOnHugePages, IsAnOrdinaryTensor) {
  for (const std::int64_t rows : {1, 3, 2000}) {
    const at::Tensor tensor = empty_on_huge_pages({rows, 513}, at::kFloat);
    const at::Tensor values = at::randn({rows, 513});
    tensor.copy_(values);
    EXPECT_TRUE(tensor.is_contiguous());
    EXPECT_TRUE(tensor.equal(values));
  }
}

TEST(EmptyOnHugePages, LargeTensorsBeginAtAHugePage) {
  EXPECT_EQ(address(empty_on_huge_pages({std::int64_t{1} << 20}, at::kFloat)) % (std::uintptr_t{2} << 20),
            0U);
}

TEST(EmptyOnHugePages, TensorsInUseNeverShareMemory) {
  std::vector<at::Tensor> held;
  for (std::int64_t i = 0; i < 40; ++i) {
    held.push_back(empty_on_huge_pages({std::int64_t{3} << 20}, at::kByte).fill_(i));
    empty_on_huge_pages({std::int64_t{3} << 20}, at::kByte).fill_(99);  // given back at once
  }
  for (std::size_t i = 0; i < held.size(); ++i) {
    EXPECT_TRUE(held[i].eq(static_cast<std::int64_t>(i)).all().item<bool>());
  }
}

TEST(WeightArena, PlacesDoNotOverlapAndOutliveIt) {
  std::vector<at::Tensor> places;
  {
    WeightArena arena;
    for (std::int64_t i = 0; i < 50; ++i) {
      places.push_back(arena.allocate(i * 40'001 + 1).fill_(i));
    }
    places.push_back(arena.allocate(std::int64_t{40} << 20).fill_(50));
  }
  for (std::size_t i = 0; i < places.size(); ++i) {
    EXPECT_EQ(address(places[i]) % 64, 0U);
    EXPECT_TRUE(places[i].eq(static_cast<std::int64_t>(i)).all().item<bool>());
  }
}

}  // namespace
}  // namespace torchwhisper::nn
