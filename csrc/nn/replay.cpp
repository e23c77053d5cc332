#include "csrc/nn/replay.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <mutex>
#include <vector>

namespace torchwhisper::nn {
namespace {

void apply(const Autocast& wanted) {
  at::autocast::set_autocast_enabled(wanted.device, wanted.enabled);
  at::autocast::set_autocast_dtype(wanted.device, wanted.dtype);
}

void set_random_state(const at::Device& device, const at::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::scoped_lock lock(generator.mutex());
  generator.set_state(state);
}

}  // namespace

Autocast Autocast::current(at::DeviceType device) {
  return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device)};
}

void Autocast::save(torch::autograd::AutogradContext& context) const {
  context.saved_data["autocast"] = std::vector<std::int64_t>{
      static_cast<std::int64_t>(device), enabled ? 1 : 0, static_cast<std::int64_t>(dtype)};
}

Autocast Autocast::saved(const torch::autograd::AutogradContext& context) {
  const auto saved = context.saved_data.at("autocast").toIntVector();
  return {static_cast<at::DeviceType>(saved[0]), saved[1] != 0, static_cast<at::ScalarType>(saved[2])};
}

at::ScalarType Autocast::product_type(at::ScalarType x) const {
  return enabled && at::isFloatingType(x) && x != at::kDouble ? dtype : x;
}

AutocastGuard::AutocastGuard(const Autocast& wanted)
    : before_(Autocast::current(wanted.device)), cached_before_(at::autocast::is_autocast_cache_enabled()) {
  apply(wanted);
  at::autocast::set_autocast_cache_enabled(false);
}

AutocastGuard::~AutocastGuard() {
  apply(before_);
  at::autocast::set_autocast_cache_enabled(cached_before_);
}

at::Tensor random_state(const at::Device& device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::scoped_lock lock(generator.mutex());
  return generator.get_state();
}

RandomStateGuard::RandomStateGuard(const at::Device& device, const at::Tensor& wanted)
    : device_(device), before_(random_state(device)) {
  set_random_state(device_, wanted);
}

// A state that the generator gave out itself is never refused.
// NOLINTNEXTLINE(bugprone-exception-escape)
RandomStateGuard::~RandomStateGuard() { set_random_state(device_, before_); }

void refuse_double_backward() {
  // The engine records backward passes only with create_graph=True.
  TORCH_CHECK(!at::GradMode::is_enabled(),
              "activation checkpointing gives first-order gradients only, and backward was called with "
              "create_graph=True: switch it off for this with model.enable_checkpointing(None)");
}

}  // namespace torchwhisper::nn
