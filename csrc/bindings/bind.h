#pragma once

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

// One function per room; module.cpp calls them all.
namespace torchwhisper::bindings {

void bind_common(pybind11::module_& m);
void bind_audio(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_decoding(pybind11::module_& m);
void bind_timing(pybind11::module_& m);

}  // namespace torchwhisper::bindings
