#include "csrc/nn/kv_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace torchwhisper::nn {
namespace {

TEST(KeyValueCache, GrowsByWhatIsAppended) {
  KeyValueCache cache(2, 3, 8, 4, at::empty({0}));
  const at::Tensor first = at::randn({2, 3, 3, 4});
  const at::Tensor second = at::randn({2, 3, 1, 4});
  cache.append(first, first + 1);
  const KeyValue all = cache.append(second, second + 1);
  const at::Tensor expected = at::cat({first, second}, 2);
  EXPECT_EQ(cache.length(), 4);
  EXPECT_TRUE(all.key.equal(expected));
  EXPECT_TRUE(all.value.equal(expected + 1));
}

TEST(KeyValueCache, ReordersRows) {
  KeyValueCache cache(4, 1, 8, 2, at::empty({0}));
  const at::Tensor rows = at::randn({4, 1, 3, 2});
  cache.append(rows, -rows);
  cache.reorder({2, 1, 0, 2});
  const at::Tensor next = at::randn({4, 1, 1, 2});
  const KeyValue all = cache.append(next, -next);
  const at::Tensor expected = at::cat({rows.index_select(0, at::tensor({2, 1, 0, 2})), next}, 2);
  EXPECT_TRUE(all.key.equal(expected));
  EXPECT_TRUE(all.value.equal(-expected));
}

TEST(KeyValueCache, RepeatsRowsNextToEachOther) {
  KeyValueCache cache(2, 1, 8, 2, at::empty({0}));
  const at::Tensor rows = at::randn({2, 1, 3, 2});
  cache.append(rows, -rows);
  KeyValueCache repeated = cache.repeat_rows(3);
  const at::Tensor next = at::randn({6, 1, 1, 2});
  const at::Tensor expected = at::cat({rows.repeat_interleave(3, 0), next}, 2);
  EXPECT_TRUE(repeated.append(next, next).key.equal(expected));
  EXPECT_EQ(cache.length(), 3);
}

}  // namespace
}  // namespace torchwhisper::nn
