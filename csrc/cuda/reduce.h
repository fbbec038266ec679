#pragma once

#include "cuda/launch.h"

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFF;

// The sum over the warp, in every lane; always added in the same order.
template <class T>
__device__ T warp_sum(T value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kAllLanes, value, apart);
  return value;
}

// The sum over the block, in thread 0 alone; always added in the same order. The block is one-dimensional, of
// whole warps, and every thread comes here. `scratch` is shared, one T per warp, and free again after the
// next barrier.
template <class T>
__device__ T block_sum(T value, T* scratch) {
  const unsigned warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  if (warp != 0) return value;
  return warp_sum(lane < warps ? scratch[lane] : T{});
}

// True, in every thread, in the block of the grid that comes here last; then all that the others wrote before
// is visible (read it with __ldcg). `counter` is zero before the first launch and zero again after each;
// `last` is shared.
inline __device__ bool is_last_block(unsigned* counter, bool* last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return *last;
}
