#include "csrc/nn/packed_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "csrc/kernels/panels.h"

namespace torchwhisper::nn {
namespace {

// ATen's oneDNN ops have no C++ header of their own; they are reached by name, as torch.compile's output
// does.
c10::IValue call_mkldnn(const char* name, c10::Stack stack) {
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(stack);
  return stack.front();
}

at::Tensor reorder_weight(const at::Tensor& weight) {
  return call_mkldnn("mkldnn::_reorder_linear_weight", {weight, c10::IValue()}).toTensor();
}

at::Tensor linear_pointwise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            std::string_view activation) {
  using Signature =
      at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                 c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Signature>();
  // "none" as the algorithm of "gelu" is the exact one.
  return op.call(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt, activation,
                 c10::List<std::optional<at::Scalar>>(), "none");
}

void check(AOTITorchError error) { TORCH_INTERNAL_ASSERT(error == AOTI_TORCH_SUCCESS); }

// The same oneDNN weight in the arena's memory, through the C interface that torch's compiled models use.
at::Tensor move_to(WeightArena& arena, at::Tensor packed, at::Tensor& memory) {
  memory = arena.allocate(call_mkldnn("mkldnn::_nbytes", {packed}).toInt());
  void* source = nullptr;
  check(aoti_torch_get_data_ptr(torch::aot_inductor::tensor_pointer_to_tensor_handle(&packed), &source));
  std::memcpy(memory.mutable_data_ptr(), source, memory.nbytes());
  const at::Tensor layout = call_mkldnn("mkldnn::_get_mkldnn_serialized_md", {packed}).toTensor();
  AtenTensorHandle handle = nullptr;
  check(aoti_torch_create_tensor_from_blob_v2(
      memory.mutable_data_ptr(), packed.dim(), packed.sizes().data(), packed.sizes().data(), 0,
      static_cast<std::int32_t>(packed.scalar_type()), aoti_torch_device_type_cpu(), 0, &handle,
      aoti_torch_layout__mkldnn(), layout.const_data_ptr<std::uint8_t>(), layout.numel()));
  const std::unique_ptr<at::Tensor> owned(torch::aot_inductor::tensor_handle_to_tensor_pointer(handle));
  return *owned;
}

at::Tensor copy_to(WeightArena& arena, const at::Tensor& weight, at::ScalarType dtype) {
  if (!weight.is_cpu()) {
    return weight.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true);
  }
  const auto n_bytes = weight.numel() * static_cast<std::int64_t>(c10::elementSize(dtype));
  return arena.allocate(n_bytes).view(dtype).view(weight.sizes()).copy_(weight.detach());
}

// Rows that are looked at together: whole panels, and no large copy in another type.
constexpr std::int64_t kRowsAtOnce = 64 * kernels::kPanelWidth;

// Whether float16 can hold the weight, as it can in every checkpoint that was written in it.
bool fits_half(const at::Tensor& weight) {
  for (std::int64_t first = 0; first < weight.size(0); first += kRowsAtOnce) {
    const at::Tensor rows = weight.slice(0, first, std::min(weight.size(0), first + kRowsAtOnce));
    const at::Tensor shortened = rows.to(at::kHalf);
    if (!shortened.to(at::kFloat).equal(rows.to(at::kFloat)) || !shortened.isfinite().all().item<bool>()) {
      return false;
    }
  }
  return true;
}

at::Tensor to_half_panels(WeightArena& arena, const at::Tensor& weight) {
  const std::int64_t columns = weight.size(0);
  const std::int64_t depth = weight.size(1);
  const at::Tensor panels = arena.allocate(kernels::panels_size(columns, depth) * 2).view(at::kHalf);
  auto* to = static_cast<std::uint16_t*>(panels.mutable_data_ptr());
  at::parallel_for(0, kernels::panel_count(columns), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      const std::int64_t first = panel * kernels::kPanelWidth;
      const at::Tensor rows =
          weight.slice(0, first, std::min(columns, first + kernels::kPanelWidth)).to(at::kHalf).contiguous();
      kernels::pack_panel_half(static_cast<const std::uint16_t*>(rows.const_data_ptr()), rows.size(0), depth,
                               to + panel * depth * kernels::kPanelWidth);
    }
  });
  return panels;
}

at::Tensor to_panels(WeightArena& arena, const at::Tensor& weight) {
  const at::Tensor rows = weight.detach().to(at::kFloat).contiguous();
  const std::int64_t columns = rows.size(0);
  const std::int64_t depth = rows.size(1);
  const at::Tensor panels =
      arena.allocate(kernels::panels_size(columns, depth) * static_cast<std::int64_t>(sizeof(float)))
          .view(at::kFloat);
  kernels::pack_panels(rows.const_data_ptr<float>(), depth, columns, depth, panels.mutable_data_ptr<float>());
  return panels;
}

kernels::WordType word_type(ComputeType products) {
  switch (products) {
    case ComputeType::kInt8:
      return kernels::WordType::kInt8;
    case ComputeType::kBFloat16:
      return kernels::WordType::kBfloat16;
    default:
      return kernels::WordType::kParts;
  }
}

// The words, the scales and the sums one after the other.
kernels::WordPanels to_words(WeightArena& arena, const at::Tensor& weight, ComputeType products,
                             at::Tensor& memory) {
  const kernels::WordType type = word_type(products);
  const std::int64_t columns = weight.size(0);
  const std::int64_t depth = weight.size(1);
  const std::int64_t n_panel = kernels::panel_count(columns);
  const std::int64_t n_column = n_panel * kernels::kPanelWidth;
  const std::int64_t n_word = kernels::panels_of_words(type) * kernels::words_of(depth, type) * n_column;
  const bool rounded = type == kernels::WordType::kInt8;
  memory = arena.allocate((n_word + (rounded ? 2 * n_column : 0)) * 4).view(at::kInt);
  kernels::WordPanels packed{type,    columns, depth, static_cast<std::uint32_t*>(memory.mutable_data_ptr()),
                             nullptr, nullptr};
  if (rounded) {
    packed.scale = reinterpret_cast<float*>(packed.words + n_word);
    packed.sums = reinterpret_cast<std::int32_t*>(packed.scale + n_column);
  }
  // Piece by piece, so that no whole copy of the weight in float32 is ever there.
  at::parallel_for(0, n_panel, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      const std::int64_t first = panel * kernels::kPanelWidth;
      const at::Tensor rows =
          weight.slice(0, first, std::min(columns, first + kernels::kPanelWidth)).to(at::kFloat).contiguous();
      kernels::pack_words(rows.const_data_ptr<float>(), panel, packed);
    }
  });
  return packed;
}

}  // namespace

PackedLinear::Layout PackedLinear::layout_for(const at::Tensor& weight, Precision precision, Rows rows) {
  if (!weight.is_cpu() || precision.activations != at::kFloat) {
    return Layout::kPlain;
  }
  if (precision.products != ComputeType::kFloat32) {
    return Layout::kWords;
  }
  if (rows != Rows::kFew && kernels::multiplies_fast(kernels::WordType::kParts) &&
      fits_half(weight.detach())) {
    return Layout::kWords;
  }
  if (rows != Rows::kMany) {
    return Layout::kPanels;
  }
  return at::globalContext().userEnabledMkldnn() && at::Context::hasMKLDNN() ? Layout::kOneDnn
                                                                             : Layout::kPlain;
}

PackedLinear::PackedLinear(const at::Tensor& weight, const at::Tensor& bias, Precision precision, Rows rows,
                           WeightArena& arena)
    : dtype_(precision.activations),
      layout_(layout_for(weight, precision, rows)),
      n_in_(weight.size(1)),
      n_out_(weight.size(0)),
      bias_(bias.defined() ? copy_to(arena, bias, dtype_) : bias) {
  switch (layout_) {
    case Layout::kOneDnn:
      weight_ = move_to(arena, reorder_weight(weight.detach().to(dtype_).contiguous()), memory_);
      break;
    case Layout::kPanels:
      weight_ = rows == Rows::kFew && kernels::multiplies_half_fast() && fits_half(weight.detach())
                    ? to_half_panels(arena, weight.detach())
                    : to_panels(arena, weight);
      break;
    case Layout::kPlain:
      weight_ = copy_to(arena, weight, dtype_);
      break;
    case Layout::kWords:
      words_ = to_words(arena, weight.detach(), precision.products, weight_);
      break;
  }
}

void PackedLinear::multiply_into(const float* x, std::int64_t rows, float* y, kernels::Epilogue epilogue,
                                 std::int64_t x_stride) const {
  TORCH_INTERNAL_ASSERT(is_by_kernel());
  epilogue.bias = bias_.defined() ? bias_.const_data_ptr<float>() : nullptr;
  const kernels::RowsAndColumns product{x, rows, n_in_, n_out_, y, epilogue, x_stride};
  if (layout_ == Layout::kWords) {
    kernels::multiply_words(product, words_);
  } else if (weight_.scalar_type() == at::kHalf) {
    kernels::multiply_panels_half(product, static_cast<const std::uint16_t*>(weight_.const_data_ptr()));
  } else {
    kernels::multiply_panels(product, weight_.const_data_ptr<float>());
  }
}

at::Tensor PackedLinear::multiply(const at::Tensor& x, const kernels::Epilogue& epilogue) const {
  const at::Tensor rows = x.contiguous();
  std::vector<std::int64_t> sizes = x.sizes().vec();
  sizes.back() = n_out_;
  at::Tensor y = at::empty(sizes, x.options());
  multiply_into(rows.const_data_ptr<float>(), rows.numel() / n_in_, y.mutable_data_ptr<float>(), epilogue);
  return y;
}

at::Tensor PackedLinear::forward(const at::Tensor& x) const {
  TORCH_INTERNAL_ASSERT(serves(x));
  switch (layout_) {
    case Layout::kOneDnn:
      return linear_pointwise(x, weight_, bias_, "none");
    case Layout::kPanels:
    case Layout::kWords:
      return multiply(x, {});
    default:
      return at::linear(x, weight_, bias_);
  }
}

at::Tensor PackedLinear::forward_gelu(const at::Tensor& x) const {
  TORCH_INTERNAL_ASSERT(serves(x));
  switch (layout_) {
    case Layout::kOneDnn:
      return linear_pointwise(x, weight_, bias_, "gelu");
    case Layout::kPanels:
    case Layout::kWords:
      return multiply(x, {.gelu = true});
    default:
      return at::gelu(at::linear(x, weight_, bias_));
  }
}

at::Tensor PackedLinear::forward_add(const at::Tensor& x, const at::Tensor& residual) const {
  if (is_by_kernel()) {
    const at::Tensor added = residual.contiguous();
    return multiply(x, {.residual = added.const_data_ptr<float>()});
  }
  return residual + forward(x);
}

}  // namespace torchwhisper::nn
