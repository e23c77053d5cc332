#pragma once

#include <atomic>
#include <cstdint>
#include <stdexcept>

#include "csrc/common/api.h"

namespace torchwhisper::common {

/// Thrown out of a running computation after Control::cancel().
class TORCHWHISPER_API Cancelled : public std::runtime_error {
 public:
  Cancelled();
};

/// What a long computation is doing when it reports progress.
enum class Stage : std::uint8_t { kEncode, kDecode, kAlign, kAudio, kPrepare };

/// Cancels a running computation and watches its progress. Every loop of the engine takes one and calls
/// step() per block, per token, per row of DTW. One object serves one computation at a time;
/// cancel() may be called from any thread.
class TORCHWHISPER_API Control {
 public:
  Control() = default;
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;
  virtual ~Control();

  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }

  /// Says that `done` units of `stage` are finished. Throws Cancelled after cancel().
  void step(Stage stage, std::int64_t done);

 protected:
  /// For subclasses: shows progress, or asks the host whether to stop (by throwing or by cancel()).
  virtual void on_step(Stage stage, std::int64_t done);

  /// For subclasses: leaves the computation after cancel() by an exception of their own.
  [[noreturn]] virtual void leave() const;

 private:
  std::atomic<bool> cancelled_{false};
};

/// For callers that have nothing to cancel: the same one for all, so do not cancel it.
TORCHWHISPER_API Control& unstoppable() noexcept;

}  // namespace torchwhisper::common
