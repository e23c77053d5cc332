#pragma once

#include <string_view>

#include "csrc/common/api.h"

namespace torchwhisper::common {

enum class LogLevel { kTrace, kDebug, kInfo, kWarning, kError, kOff };

/// Messages below this level are dropped. Default: kWarning.
TORCHWHISPER_API void set_log_level(LogLevel level);
TORCHWHISPER_API LogLevel log_level();

/// Writes one line to stderr through spdlog. Callers format with fmt, so that spdlog stays in one file.
TORCHWHISPER_API void log(LogLevel level, std::string_view message);

}  // namespace torchwhisper::common
