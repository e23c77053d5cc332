# Everything that each of our targets is compiled with.
function(torchwhisper_compile_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor)
  if(TORCHWHISPER_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(TORCHWHISPER_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${TORCHWHISPER_SANITIZE}
                                             -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${TORCHWHISPER_SANITIZE})
  endif()
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  set_target_properties(
    ${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
                         POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF)
endfunction()
