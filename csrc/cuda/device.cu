#include <cuda_runtime.h>

#include "cuda/device.h"
#include "cuda/stream.h"

OnDevice::OnDevice(int device) {
  cudaError_t error = cudaGetDevice(&before_);
  if (error == cudaSuccess && before_ != device) error = cudaSetDevice(device);
  if (error != cudaSuccess) throw CudaError("cuda:" + std::to_string(device), cudaGetErrorString(error));
}

OnDevice::~OnDevice() { cudaSetDevice(before_); }
