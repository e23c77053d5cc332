# torch::core and torch::python, made from the installed torch package. We do not use
# find_package(Torch): on a CUDA build of torch it stops where no CUDA toolkit is installed,
# and we compile no CUDA source.
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
if(NOT TORCHWHISPER_TORCH_ROOT)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import torch; print(torch.__path__[0])"
    OUTPUT_VARIABLE torch_root
    OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE torch_missing)
  if(torch_missing)
    message(FATAL_ERROR "torch is not installed for ${Python_EXECUTABLE}: pip install torch, and build "
                        "with --no-build-isolation, or set TORCHWHISPER_TORCH_ROOT")
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
torchwhisper_import_torch_library(torch::torch_python torch_python)

add_library(torch::core INTERFACE IMPORTED)
target_include_directories(torch::core SYSTEM INTERFACE
  ${torch_root}/include ${torch_root}/include/torch/csrc/api/include)
target_link_libraries(torch::core INTERFACE torch::torch torch::torch_cpu torch::c10)

add_library(torch::python INTERFACE IMPORTED)
target_include_directories(torch::python SYSTEM INTERFACE ${Python_INCLUDE_DIRS})
target_link_libraries(torch::python INTERFACE torch::core torch::torch_python)
