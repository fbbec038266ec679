# A shared library in the place of NVIDIA's cuBLASLt, for tests.
add_library(cublaslt_on_host MODULE EXCLUDE_FROM_ALL tests/csrc/cublaslt_on_host.cpp)
target_link_libraries(cublaslt_on_host PRIVATE mtrl_flags)
set_target_properties(cublaslt_on_host PROPERTIES CXX_VISIBILITY_PRESET default PREFIX "")
