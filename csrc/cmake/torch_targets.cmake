# torch::core and torch::python, made from the installed torch package. We do not use
# find_package(Torch): on a CUDA build of torch it stops where no CUDA toolkit is installed,
# and we compile no CUDA source.
if(TORCHWHISPER_BUILD_PYTHON)
  find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
elseif(NOT TORCHWHISPER_TORCH_ROOT)
  find_package(Python REQUIRED COMPONENTS Interpreter)
endif()
if(NOT TORCHWHISPER_TORCH_ROOT)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
            "import importlib.util; print(importlib.util.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE torch_root
    OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE torch_missing
    ERROR_QUIET)
  if(torch_missing)
    message(FATAL_ERROR "torch is not installed for ${Python_EXECUTABLE}: activate the environment that has "
                        "it, install it there (and build with --no-build-isolation), or set "
                        "TORCHWHISPER_TORCH_ROOT to its folder torch")
  endif()
else()
  set(torch_root ${TORCHWHISPER_TORCH_ROOT})
endif()

function(torchwhisper_import_torch_library target name)
  add_library(${target} SHARED IMPORTED)
  set_target_properties(
    ${target} PROPERTIES IMPORTED_LOCATION
                         ${torch_root}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}${name}${CMAKE_SHARED_LIBRARY_SUFFIX})
endfunction()

torchwhisper_import_torch_library(torch::c10 c10)
torchwhisper_import_torch_library(torch::torch_cpu torch_cpu)
torchwhisper_import_torch_library(torch::torch torch)

add_library(torch::core INTERFACE IMPORTED)
target_include_directories(torch::core SYSTEM INTERFACE
  ${torch_root}/include ${torch_root}/include/torch/csrc/api/include)
target_link_libraries(torch::core INTERFACE torch::torch torch::torch_cpu torch::c10)

if(TORCHWHISPER_BUILD_PYTHON)
  torchwhisper_import_torch_library(torch::torch_python torch_python)
  add_library(torch::python INTERFACE IMPORTED)
  target_include_directories(torch::python SYSTEM INTERFACE ${Python_INCLUDE_DIRS})
  target_link_libraries(torch::python INTERFACE torch::core torch::torch_python)
endif()
