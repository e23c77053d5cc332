#include "csrc/nn/kv_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "csrc/nn/functional.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

using torchwhisper::testing::relative_error;

// Attention in float64 of q: [row, time, head * dim] to key and value: [row, head, memory, dim].
at::Tensor expected(const at::Tensor& q, const at::Tensor& key, const at::Tensor& value) {
  const auto exact = functional::attention_with_scores(
      functional::split_heads(q.to(at::kDouble), key.size(1)), key.to(at::kDouble), value.to(at::kDouble),
      /*mask=*/{});
  return functional::merge_heads(exact.out);
}

struct Shape {
  std::int64_t rows;
  std::int64_t heads;
  std::int64_t dim;
};

// Of float32 in panels (dim <= 64) and as it comes (wider heads, other types).
class KeyValueCacheTest : public ::testing::TestWithParam<std::pair<Shape, at::ScalarType>> {
 protected:
  KeyValueCache cache(std::int64_t rows, std::int64_t n_ctx) const {
    return {rows, shape.heads, n_ctx, shape.dim, at::empty({0}, at::dtype(dtype))};
  }
  at::Tensor random(std::int64_t rows, std::int64_t length) const {
    return at::randn({rows, shape.heads, length, shape.dim}).to(dtype);
  }
  at::Tensor queries(std::int64_t rows, std::int64_t time) const {
    return at::randn({rows, time, shape.heads * shape.dim}).to(dtype);
  }

  const Shape shape = GetParam().first;
  const at::ScalarType dtype = GetParam().second;
  const double tolerance = dtype == at::kFloat ? 2e-6 : 2e-2;
};
INSTANTIATE_TEST_SUITE_P(Shapes, KeyValueCacheTest,
                         ::testing::Values(std::pair{Shape{2, 3, 64}, at::kFloat},
                                           std::pair{Shape{1, 1, 5}, at::kFloat},
                                           std::pair{Shape{3, 2, 80}, at::kFloat},
                                           std::pair{Shape{2, 2, 64}, at::kBFloat16}));

TEST_P(KeyValueCacheTest, AttendsToAllThatWasAppended) {
  KeyValueCache grown = cache(shape.rows, 300);
  at::Tensor key = at::empty({shape.rows, shape.heads, 0, shape.dim}, at::dtype(dtype));
  at::Tensor value = key;
  for (const std::int64_t n_new : {3, 1, 60, 1, 1, 64, 1}) {  // ends of panels are passed and met
    const at::Tensor next = random(shape.rows, n_new);
    grown.append(next, next - 1);
    key = at::cat({key, next}, 2);
    value = at::cat({value, next - 1}, 2);
    for (const std::int64_t time : {1, 2, 30}) {
      const at::Tensor q = queries(shape.rows, time);
      EXPECT_LT(relative_error(grown.attend(q), expected(q, key, value)), tolerance);
    }
  }
  EXPECT_EQ(grown.length(), 131);
}

TEST_P(KeyValueCacheTest, KeepsTheScoresWhereAsked) {
  KeyValueCache memory = cache(shape.rows, 100);
  const at::Tensor key = random(shape.rows, 100);
  memory.append(key, -key);
  const at::Tensor q = queries(shape.rows, 27);
  const std::vector<std::int64_t> heads =
      shape.heads > 1 ? std::vector<std::int64_t>{shape.heads - 1, 0} : std::vector<std::int64_t>{0};
  const auto scored = memory.attend_with_scores(q, heads);
  const auto exact = functional::attention_with_scores(
      functional::split_heads(q.to(at::kDouble), shape.heads), key.to(at::kDouble), -key.to(at::kDouble), {});
  EXPECT_LT(relative_error(scored.out, exact.out), tolerance);
  EXPECT_LT(relative_error(scored.scores, exact.scores.index_select(1, at::tensor(heads))), tolerance);
  EXPECT_EQ(memory.attend_with_scores(q, {}).scores.size(1), 0);
}

TEST(KeyValueCache, ShortensWhatIsOnlyRead) {
  KeyValueCache memory(2, 3, 100, 64, at::empty({0}), /*shortened=*/true);
  const at::Tensor key = at::randn({2, 3, 100, 64});
  const at::Tensor value = at::randn({2, 3, 100, 64});
  memory.append(key, value);
  const at::Tensor q = at::randn({2, 7, 192});
  const auto half = [](const at::Tensor& x) { return x.to(at::kBFloat16).to(at::kFloat); };
  EXPECT_LT(relative_error(memory.attend(q), expected(q, half(key), half(value))), 2e-6);
}

TEST(KeyValueCache, ReordersWhatIsShortened) {
  KeyValueCache one(1, 3, 200, 64, at::empty({0}), /*shortened=*/true);
  at::Tensor key = at::randn({1, 3, 70, 64}).to(at::kBFloat16).to(at::kFloat);
  one.append(key, -key);
  KeyValueCache beams = one.repeat_rows(3);
  key = key.repeat_interleave(3, 0);
  for (const std::vector<std::int64_t>& sources :
       std::vector<std::vector<std::int64_t>>{{0, 1, 2}, {2, 0, 0}, {1, 1, 2}}) {
    const at::Tensor next = at::randn({3, 3, 1, 64}).to(at::kBFloat16).to(at::kFloat);
    beams.append(next, -next);
    beams.reorder(sources);
    key = at::cat({key, next}, 2).index_select(0, at::tensor(sources));
  }
  const at::Tensor q = at::randn({3, 1, 192});
  EXPECT_LT(relative_error(beams.attend(q), expected(q, key, -key)), 2e-6);
}

TEST_P(KeyValueCacheTest, ReordersRows) {
  KeyValueCache reordered = cache(4, 80);
  const at::Tensor rows = random(4, 70);
  reordered.append(rows, -rows);
  reordered.reorder({2, 1, 0, 2});
  const at::Tensor next = random(4, 1);
  reordered.append(next, -next);
  const at::Tensor all = at::cat({rows.index_select(0, at::tensor({2, 1, 0, 2})), next}, 2);
  const at::Tensor q = queries(4, 1);
  EXPECT_LT(relative_error(reordered.attend(q), expected(q, all, -all)), tolerance);
}

TEST_P(KeyValueCacheTest, FollowsManyReorderings) {
  KeyValueCache beams = cache(2, 200).repeat_rows(1);
  at::Tensor key = random(2, 5);
  beams.append(key, -key);
  beams = beams.repeat_rows(3);
  key = key.repeat_interleave(3, 0);
  for (int step = 0; step < 80; ++step) {
    const at::Tensor next = random(6, 1);
    beams.append(next, -next);
    key = at::cat({key, next}, 2);
    // Three beams of two recordings; each continues one of its recording's.
    at::Tensor sources = at::randint(0, 3, {6}, at::kLong);
    sources.slice(0, 3) += 3;
    beams.reorder({sources.const_data_ptr<std::int64_t>(), sources.const_data_ptr<std::int64_t>() + 6});
    key = key.index_select(0, sources);
    const at::Tensor q = queries(6, 1);
    ASSERT_LT(relative_error(beams.attend(q), expected(q, key, -key)), tolerance) << step;
  }
}

TEST_P(KeyValueCacheTest, RepeatsRowsNextToEachOther) {
  KeyValueCache once = cache(2, 80);
  const at::Tensor rows = random(2, 65);
  once.append(rows, -rows);
  KeyValueCache repeated = once.repeat_rows(3);
  const at::Tensor next = random(6, 1);
  repeated.append(next, next);
  const at::Tensor key = at::cat({rows.repeat_interleave(3, 0), next}, 2);
  const at::Tensor value = at::cat({-rows.repeat_interleave(3, 0), next}, 2);
  const at::Tensor q = queries(6, 1);
  EXPECT_LT(relative_error(repeated.attend(q), expected(q, key, value)), tolerance);
  EXPECT_EQ(once.length(), 65);
}

}  // namespace
}  // namespace torchwhisper::nn
