#include "csrc/nn/packed_linear.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string_view>

namespace torchwhisper::nn {
namespace {

// ATen's oneDNN ops have no C++ header of their own; they are reached by name, as torch.compile's output
// does.
at::Tensor reorder_weight(const at::Tensor& weight) {
  static const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_reorder_linear_weight", "");
  c10::Stack stack{weight, c10::IValue()};
  op.callBoxed(stack);
  return stack.front().toTensor();
}

at::Tensor linear_pointwise(const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
  using Signature =
      at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                 c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Signature>();
  return op.call(x, weight, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

at::Tensor copied(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true);
}

}  // namespace

PackedLinear::PackedLinear(const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype)
    : dtype_(dtype),
      bias_(bias.defined() ? copied(bias, dtype) : bias),
      onednn_(weight.is_cpu() && dtype == at::kFloat && at::globalContext().userEnabledMkldnn() &&
              at::Context::hasMKLDNN()) {
  weight_ = onednn_ ? reorder_weight(weight.detach().to(dtype).contiguous()) : copied(weight, dtype);
}

at::Tensor PackedLinear::forward(const at::Tensor& x) const {
  TORCH_INTERNAL_ASSERT(x.scalar_type() == dtype_);
  if (onednn_) {
    return linear_pointwise(x, weight_, bias_.defined() ? std::optional<at::Tensor>(bias_) : std::nullopt);
  }
  return at::linear(x, weight_, bias_);
}

}  // namespace torchwhisper::nn
