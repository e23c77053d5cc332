# Third-party libraries that come from the system's packages.
find_path(SNDFILE_INCLUDE_DIR sndfile.h)
find_library(SNDFILE_LIBRARY NAMES sndfile)
if(NOT SNDFILE_INCLUDE_DIR OR NOT SNDFILE_LIBRARY)
  message(FATAL_ERROR "libsndfile was not found: install libsndfile1-dev (Debian) or set "
                      "SNDFILE_INCLUDE_DIR and SNDFILE_LIBRARY")
endif()
add_library(SndFile::sndfile UNKNOWN IMPORTED)
set_target_properties(
  SndFile::sndfile PROPERTIES IMPORTED_LOCATION ${SNDFILE_LIBRARY}
                              INTERFACE_INCLUDE_DIRECTORIES ${SNDFILE_INCLUDE_DIR})

find_package(spdlog CONFIG)
if(NOT spdlog_FOUND)
  message(FATAL_ERROR "spdlog was not found: install libspdlog-dev (Debian)")
endif()

find_path(XXHASH_INCLUDE_DIR xxhash.h)
if(NOT XXHASH_INCLUDE_DIR)
  message(FATAL_ERROR "xxhash.h was not found: install libxxhash-dev (Debian)")
endif()
add_library(xxhash::headers INTERFACE IMPORTED)
set_target_properties(xxhash::headers PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
                                                 ${XXHASH_INCLUDE_DIR})
