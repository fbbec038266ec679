#pragma once

#include <stdexcept>
#include <string>

// CUDA's own handle, declared here so that callers need none of its headers. Null is the default stream.
typedef struct CUstream_st* cudaStream_t;

// What a refused launch or copy throws; `what()` names the kernel and CUDA's reason.
struct CudaError : std::runtime_error {
  CudaError(const std::string& doing, const std::string& reason)
      : std::runtime_error(doing + ": " + reason) {}
};
