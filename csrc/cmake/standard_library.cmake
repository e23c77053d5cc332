# torch brings the C++ library as a shared one. A compiler that links its own copy statically, as some
# toolchains on servers do, gives a process with two of them, which crashes where the first number is
# written into an error message.
if(NOT CMAKE_READELF)
  return()
endif()
set(probe ${CMAKE_BINARY_DIR}/standard_library_probe)
try_compile(probe_compiles
  SOURCE_FROM_CONTENT probe.cpp "#include <iostream>\nint main() { std::cout << 1; }\n"
  COPY_FILE ${probe})
if(NOT probe_compiles)
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} does not compile a program that prints a number")
endif()
execute_process(COMMAND ${CMAKE_READELF} -d ${probe} OUTPUT_VARIABLE probe_needs)
if(NOT probe_needs MATCHES "libstdc\\+\\+\\.so|libc\\+\\+\\.so")
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} links the C++ library statically, torch as a shared one, and the "
                      "two do not go together: set CXX to another compiler, e.g. CXX=/usr/bin/g++")
endif()
