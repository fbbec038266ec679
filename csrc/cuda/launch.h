// All that a kernel's source takes from CUDA beyond the language itself. A test includes
// tests/csrc/cuda_on_host.h first, which takes this file's place; then the same source runs on the host.
#ifndef MTRL_CUDA_LAUNCH_H
#define MTRL_CUDA_LAUNCH_H

#include <cuda_runtime.h>

#include "cuda/stream.h"

#define MTRL_UNROLL _Pragma("unroll")

// Starts `kernel` on `stream` and returns at once. Throws CudaError where CUDA refuses the launch; a fault
// while it runs appears at a later call.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared_bytes,
            cudaStream_t stream, Arguments... arguments) {
  kernel<<<blocks, threads, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw CudaError(name, cudaGetErrorString(error));
}

// The shared memory that the launch asked for.
template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

#endif
