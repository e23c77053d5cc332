#include "csrc/common/control.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace torchwhisper::common {
namespace {

class Recorder : public Control {
 public:
  std::vector<std::pair<Stage, std::int64_t>> seen;

 protected:
  void on_step(Stage stage, std::int64_t done) override { seen.emplace_back(stage, done); }
};

TEST(Control, ReportsEveryStep) {
  Recorder control;
  control.step(Stage::kEncode, 1);
  control.step(Stage::kDecode, 7);
  const std::vector<std::pair<Stage, std::int64_t>> expected = {{Stage::kEncode, 1}, {Stage::kDecode, 7}};
  EXPECT_EQ(control.seen, expected);
}

TEST(Control, ThrowsAfterCancel) {
  Control control;
  EXPECT_NO_THROW(control.step(Stage::kDecode, 1));
  control.cancel();
  EXPECT_THROW(control.step(Stage::kDecode, 2), Cancelled);
}

}  // namespace
}  // namespace torchwhisper::common
