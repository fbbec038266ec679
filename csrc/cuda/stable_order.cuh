#pragma once

#include <cstdint>

#include "cuda/reduce.h"

// Rows sorted by a small key, equal ones in their old order: rows order[i], start[k] <= i < start[k + 1],
// have key k. key [rows], each below `keys`; start [keys + 1]; order [rows]. One block per key reads all
// keys.
namespace stable_order {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

__global__ static void __launch_bounds__(kThreads)
    kernel(int64_t rows, const int64_t* key, int64_t* start, int64_t* order) {
  __shared__ int64_t scratch[kWarps];
  __shared__ int64_t smaller;
  __shared__ int count[kWarps];
  const int64_t own = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  int64_t below = 0;
  for (int64_t b = threadIdx.x; b < rows; b += kThreads) below += key[b] < own;
  below = block_sum(below, scratch);
  if (threadIdx.x == 0) {
    smaller = start[own] = below;
    if (blockIdx.x + 1 == gridDim.x) start[gridDim.x] = rows;
  }
  __syncthreads();
  int64_t at = smaller;
  for (int64_t tile = 0; tile < rows; tile += kThreads) {
    const int64_t b = tile + threadIdx.x;
    const bool mine = b < rows && key[b] == own;
    const unsigned votes = __ballot_sync(kAllLanes, mine);
    if (lane == 0) count[warp] = __popc(votes);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < kWarps; ++w) {
      before += w < warp ? count[w] : 0;
      all += count[w];
    }
    if (mine) order[at + before + __popc(votes & ((1u << lane) - 1))] = b;
    at += all;
    __syncthreads();
  }
}

inline void sort(int64_t rows, int64_t keys, const int64_t* key, int64_t* start, int64_t* order,
                 cudaStream_t stream) {
  launch("stable order", kernel, static_cast<unsigned>(keys), kThreads, 0, stream, rows, key, start, order);
}

}  // namespace stable_order
