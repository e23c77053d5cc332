#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <unordered_map>

#include "csrc/common/api.h"

namespace torchwhisper::nn {

/// Tensors by state_dict key, e.g. "decoder.blocks.0.attn.query.weight".
using NamedTensors = std::unordered_map<std::string, at::Tensor>;

/// A view of the tensors below one prefix, from which modules take their parameters. Nothing is copied.
class TORCHWHISPER_API Weights {
 public:
  explicit Weights(const NamedTensors& tensors, std::string prefix = "");

  /// The tensors below `name`, e.g. of a child module.
  Weights operator[](const std::string& name) const;

  /// The tensor `name` of exactly this shape. Throws ValueError naming the key where it is absent or differs.
  at::Tensor take(const std::string& name, at::IntArrayRef shape) const;

 private:
  const NamedTensors* tensors_;
  std::string prefix_;
};

}  // namespace torchwhisper::nn
