# Adds the CUDA kernels to `_core`; MTRL_CUDA is ON or AUTO. cudart is linked statically and looks for the driver only
# when a kernel is launched, so the module also imports where there is none.
file(GLOB wheels ${Python_SITELIB}/nvidia/cu*/bin)  # NVIDIA's own packages for pip
find_program(MTRL_NVCC NAMES $ENV{CUDACXX} nvcc PATHS ${wheels} $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
if(NOT MTRL_NVCC)
  if(MTRL_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MTRL_CUDA=ON but there is no nvcc in CUDACXX, on PATH, in this Python's site-packages, in "
                        "CUDA_PATH or in /usr/local/cuda. Install the CUDA toolkit (docs/gpu.md has a line for pip), or "
                        "build without the CUDA kernels: MTRL_CUDA=OFF")
  endif()
  return()
endif()

# A kernel compiled for sm_x0 runs on every later sm_xy; the oldest one's PTX serves what is newer than the toolkit.
if(DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES $ENV{CUDAARCHS} CACHE STRING "CUDA architectures" FORCE)
elseif(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND ${MTRL_NVCC} --list-gpu-code OUTPUT_VARIABLE codes COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "sm_([89]|1[0-9])0\n" codes "${codes}\n")
  string(REGEX REPLACE "sm_([0-9]+)\n" "\\1-real" architectures "${codes}")
  set(CMAKE_CUDA_ARCHITECTURES ${architectures} 80-virtual CACHE STRING "CUDA architectures")
endif()

get_filename_component(toolkit ${MTRL_NVCC}/../.. ABSOLUTE)
if(EXISTS ${toolkit}/lib AND NOT EXISTS ${toolkit}/lib64)  # pip's packages; their nvcc looks in lib64 alone
  set(ENV{NVCC_APPEND_FLAGS} "$ENV{NVCC_APPEND_FLAGS} -L${toolkit}/lib")
endif()
set(CMAKE_CUDA_COMPILER ${MTRL_NVCC} CACHE FILEPATH "nvcc")
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
message(STATUS "Building the CUDA kernels with ${MTRL_NVCC}; should that fail, MTRL_CUDA=OFF builds without them")
enable_language(CUDA)

file(GLOB CUDA_SOURCES CONFIGURE_DEPENDS csrc/replay/*.cu csrc/critic/*.cu csrc/cuda/*.cu)
file(STRINGS csrc/cuda/nvcc.flags flags)
if(MTRL_WERROR)
  list(APPEND flags -Werror=all-warnings -Xcompiler=-Werror)
endif()
add_library(mtrl_cuda OBJECT ${CUDA_SOURCES})
target_include_directories(mtrl_cuda PRIVATE csrc)
target_compile_options(mtrl_cuda PRIVATE ${flags})
target_link_libraries(_core PRIVATE mtrl_cuda)
file(GLOB CUDA_BIND_SOURCES CONFIGURE_DEPENDS csrc/bind/cuda/*.cpp)
target_sources(_core PRIVATE ${CUDA_BIND_SOURCES} csrc/cuda/cublaslt.cpp)
target_link_libraries(_core PRIVATE ${CMAKE_DL_LIBS})
string(REPLACE ";" " " architectures "${CMAKE_CUDA_ARCHITECTURES}")
set_property(SOURCE csrc/bind/cuda.cpp APPEND PROPERTY COMPILE_DEFINITIONS
             "MTRL_CUDA_VERSION=\"${CMAKE_CUDA_COMPILER_VERSION}\"" "MTRL_CUDA_ARCHITECTURES=\"${architectures}\"")
message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: kernels for ${architectures}")
