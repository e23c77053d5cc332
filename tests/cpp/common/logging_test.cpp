#include "csrc/common/logging.h"

#include <gtest/gtest.h>

namespace torchwhisper::common {
namespace {

TEST(Logging, DropsMessagesBelowTheLevel) {
  const LogLevel before = log_level();
  set_log_level(LogLevel::kError);
  testing::internal::CaptureStderr();
  log(LogLevel::kWarning, "not to be seen");
  log(LogLevel::kError, "to be seen");
  const std::string written = testing::internal::GetCapturedStderr();
  set_log_level(before);
  EXPECT_EQ(written.find("not to be seen"), std::string::npos);
  EXPECT_NE(written.find("to be seen"), std::string::npos);
}

TEST(Logging, KeepsTheLevelThatWasSet) {
  const LogLevel before = log_level();
  for (const LogLevel level : {LogLevel::kTrace, LogLevel::kWarning, LogLevel::kOff}) {
    set_log_level(level);
    EXPECT_EQ(log_level(), level);
  }
  set_log_level(before);
}

}  // namespace
}  // namespace torchwhisper::common
