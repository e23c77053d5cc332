# What C++ programs need: the library, the headers, and a package for find_package(torchwhisper). They lie in
# the folder of the Python package, beside torch's, which they are used with.
set(package_dir ${TORCHWHISPER_INSTALL_DIR}/share/cmake/torchwhisper)
install(TARGETS torchwhisper EXPORT torchwhisper_targets
        LIBRARY DESTINATION ${TORCHWHISPER_INSTALL_DIR}
        INCLUDES DESTINATION ${TORCHWHISPER_INSTALL_DIR}/include)
install(EXPORT torchwhisper_targets NAMESPACE torchwhisper:: DESTINATION ${package_dir})
foreach(room IN ITEMS common kernels audio nn model decoding timing)
  file(GLOB headers CONFIGURE_DEPENDS ${room}/*.h)
  list(REMOVE_ITEM headers ${CMAKE_CURRENT_SOURCE_DIR}/common/pch.h)
  install(FILES ${headers} DESTINATION ${TORCHWHISPER_INSTALL_DIR}/include/csrc/${room})
endforeach()

file(STRINGS ${PROJECT_SOURCE_DIR}/python/torchwhisper/version.py version REGEX "__version__ = ")
string(REGEX MATCH "[0-9.]+" version "${version}")
file(STRINGS ${torch_root}/version.py TORCHWHISPER_TORCH_VERSION REGEX "^__version__ = ")
string(REGEX MATCH "[0-9]+\\.[0-9]+" TORCHWHISPER_TORCH_VERSION "${TORCHWHISPER_TORCH_VERSION}")
configure_file(cmake/torchwhisperConfig.cmake.in torchwhisperConfig.cmake @ONLY)
include(CMakePackageConfigHelpers)
write_basic_package_version_file(torchwhisperConfigVersion.cmake VERSION ${version}
                                 COMPATIBILITY AnyNewerVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/torchwhisperConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/torchwhisperConfigVersion.cmake
              cmake/torch_targets.cmake
        DESTINATION ${package_dir})
