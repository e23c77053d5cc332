#include "csrc/timing/dtw.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>
#include <vector>

namespace torchwhisper::timing {
namespace {

using Path = std::vector<std::pair<std::int64_t, std::int64_t>>;

Path steps(const at::Tensor& path) {
  Path result;
  for (std::int64_t k = 0; k < path.size(1); ++k) {
    result.emplace_back(path[0][k].item<std::int64_t>(), path[1][k].item<std::int64_t>());
  }
  return result;
}

Path warp(const at::Tensor& cost) {
  common::Control control;
  return steps(dtw(cost, control));
}

TEST(Dtw, FollowsAPlantedPath) {
  const Path planted = {{0, 0}, {0, 1}, {1, 2}, {2, 2}, {3, 3}, {3, 4}, {4, 5}};
  const at::Tensor cost = at::rand({5, 6});
  for (const auto& [i, j] : planted) {
    cost[i][j] = -10;
  }
  EXPECT_EQ(warp(cost), planted);
}

TEST(Dtw, PrefersTheStepToTheRightOnTies) {
  EXPECT_EQ(warp(at::zeros({2, 3})), (Path{{0, 0}, {1, 0}, {1, 1}, {1, 2}}));
}

TEST(Dtw, NanCountsAsATie) {
  const at::Tensor cost = at::full({2, 2}, std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(warp(cost), (Path{{0, -1}, {1, -1}, {1, 0}, {1, 1}}));
}

TEST(Dtw, AnswersForDegenerateSizes) {
  EXPECT_EQ(warp(at::ones({1, 1})), (Path{{0, 0}}));
  EXPECT_EQ(warp(at::ones({2, 0})), (Path{{0, -1}, {1, -1}}));
  EXPECT_EQ(warp(at::ones({0, 2})), (Path{{-1, 0}, {-1, 1}}));
  EXPECT_EQ(warp(at::ones({0, 0})), Path{});
}

TEST(Dtw, TakesStridedInputOfAnyType) {
  const at::Tensor cost = at::rand({7, 9}, at::kDouble);
  EXPECT_EQ(warp(cost.t().contiguous().t()), warp(cost));
  const at::Tensor whole = cost.mul(4).to(at::kLong);
  EXPECT_EQ(warp(whole), warp(whole.to(at::kFloat)));
}

TEST(Dtw, RefusesWhatIsNoMatrix) {
  common::Control control;
  EXPECT_THROW(dtw(at::zeros({3}), control), c10::ValueError);
}

class Rows : public common::Control {
 public:
  std::vector<std::int64_t> seen;

 protected:
  void on_step(common::Stage stage, std::int64_t done) override {
    EXPECT_EQ(stage, common::Stage::kAlign);
    seen.push_back(done);
    if (done == 3) {
      cancel();
    }
  }
};

TEST(Dtw, StopsAtTheRowWhereItIsCancelled) {
  Rows control;
  EXPECT_THROW(dtw(at::zeros({5, 4}), control), common::Cancelled);
  EXPECT_EQ(control.seen, (std::vector<std::int64_t>{1, 2, 3}));
}

TEST(Backtrace, FollowsTheMovesAndOverlooksTheBorder) {
  at::Tensor trace = at::full({3, 4}, 9, at::kChar);
  trace[2][3] = static_cast<std::int8_t>(Move::kRight);
  trace[2][2] = static_cast<std::int8_t>(Move::kDiagonal);
  trace[1][1] = static_cast<std::int8_t>(Move::kDown);
  EXPECT_EQ(steps(backtrace(trace)), (Path{{-1, 0}, {0, 0}, {1, 1}, {1, 2}}));
}

TEST(Backtrace, RefusesAnUnknownMove) {
  EXPECT_THROW(backtrace(at::full({3, 3}, 3, at::kChar)), c10::ValueError);
  EXPECT_THROW(backtrace(at::full({3, 3}, -1, at::kChar)), c10::ValueError);
  EXPECT_THROW(backtrace(at::zeros({0, 3}, at::kChar)), c10::ValueError);
}

}  // namespace
}  // namespace torchwhisper::timing
