#pragma once

// The headers that most rooms need and that take longest to parse.
#include <ATen/ATen.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>
