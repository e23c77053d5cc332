#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include "csrc/common/api.h"

/// What autograd functions need that compute again in their backward pass: what a computation depends on
/// besides its inputs, so that its result is the same.
namespace torchwhisper::nn {

/// The autocast settings of one kind of device.
struct TORCHWHISPER_API Autocast {
  static Autocast current(at::DeviceType device);

  /// In the context of a function; the backward pass runs outside of autocast.
  void save(torch::autograd::AutogradContext& context) const;
  static Autocast saved(const torch::autograd::AutogradContext& context);

  /// The type that a product of x runs in.
  at::ScalarType product_type(at::ScalarType x) const;

  /// No autocast on this device.
  Autocast off() const { return {device, false, dtype}; }

  at::DeviceType device;
  bool enabled;
  at::ScalarType dtype;
};

/// Puts autocast settings back while it lives. Casts are not cached: that cache belongs to the forward pass.
class TORCHWHISPER_API AutocastGuard {
 public:
  explicit AutocastGuard(const Autocast& wanted);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  Autocast before_;
  bool cached_before_;
};

/// The state of a device's default generator.
TORCHWHISPER_API at::Tensor random_state(const at::Device& device);

/// Puts a generator back while it lives, and then to where it was.
class TORCHWHISPER_API RandomStateGuard {
 public:
  RandomStateGuard(const at::Device& device, const at::Tensor& wanted);
  ~RandomStateGuard();
  RandomStateGuard(const RandomStateGuard&) = delete;
  RandomStateGuard& operator=(const RandomStateGuard&) = delete;

 private:
  at::Device device_;
  at::Tensor before_;
};

/// Throws RuntimeError where the caller of a backward pass asked for gradients of gradients.
TORCHWHISPER_API void refuse_double_backward();

}  // namespace torchwhisper::nn
