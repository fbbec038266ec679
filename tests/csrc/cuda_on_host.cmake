# The Python module `cuda_on_host`; tests/mtrl/cuda/cuda_on_host.py builds and explains it.
file(GLOB bindings CONFIGURE_DEPENDS csrc/bind/cuda/*.cpp)
pybind11_add_module(cuda_on_host EXCLUDE_FROM_ALL NO_EXTRAS tests/csrc/cuda_on_host_module.cpp ${bindings}
                    csrc/cuda/cublaslt.cpp)
target_compile_definitions(cuda_on_host PRIVATE MTRL_CUDA_ON_HOST)
target_link_libraries(cuda_on_host PRIVATE mtrl_flags Threads::Threads ${CMAKE_DL_LIBS})
target_include_directories(cuda_on_host PRIVATE csrc tests/csrc)
target_compile_options(cuda_on_host PRIVATE -O1)  # the fibers' switching costs more than their work
file(GLOB sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/csrc csrc/replay/*.cu csrc/critic/*.cu)
foreach(source ${sources})
  set(wrapper ${CMAKE_BINARY_DIR}/cuda_on_host/${source}.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"cuda_on_host.h\"\n#include \"${source}\"\n")
  target_sources(cuda_on_host PRIVATE ${wrapper})
endforeach()
include(tests/csrc/cublaslt_on_host.cmake)
add_dependencies(cuda_on_host cublaslt_on_host)
