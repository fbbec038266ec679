#pragma once

#include <cstdint>

#include "cuda/launch.h"

// The tree of flat_sum_tree.h on the GPU: the same levels, sums in the same order, so the same bits. A view
// of memory that somebody else owns; zeros are an empty tree. One block of threads works on a tree at a time.
struct FlatSumTreeCuda {
  static constexpr int kFan = 16;

  int64_t blocks;    // of 256 leaves
  float* leaves;     // [256 blocks]
  double* sums16;    // [16 blocks]
  double* sums256;   // [blocks]
  double* prefix;    // [blocks + 1]: 0 and the cumulative sums of sums256
  float* maxima16;   // [16 blocks]
  float* maxima256;  // [blocks]

  // cumulative[4 r + q]: the sum of children 0..r of quarter q and of all quarters before it. Quarter q is
  // children q, 4 + q, 8 + q, 12 + q.
  template <class T>
  static __device__ void accumulate(const T* child, double (&cumulative)[kFan]) {
    MTRL_UNROLL
    for (int k = 0; k < kFan; ++k) cumulative[k] = static_cast<double>(child[k]);
    MTRL_UNROLL
    for (int k = 4; k < kFan; ++k) cumulative[k] += cumulative[k - 4];
    const double one = cumulative[12], two = one + cumulative[13], three = two + cumulative[14];
    MTRL_UNROLL
    for (int k = 0; k < kFan; k += 4) {
      cumulative[k + 1] += one;
      cumulative[k + 2] += two;
      cumulative[k + 3] += three;
    }
  }

  static __device__ int place(int k) { return 4 * (k % 4) + k / 4; }

  // As in flat_sum_tree.cpp: the child whose cumulative sum first exceeds `mass`, which becomes the mass
  // inside it.
  template <class T>
  static __device__ int descend(const T* child, double& mass) {
    double cumulative[kFan];
    accumulate(child, cumulative);
    // The sums never fall in the order of summation, so the last one passed is the greatest passed.
    int k = 0;
    double below = 0;
    MTRL_UNROLL
    for (int i = 0; i < kFan; ++i) {
      const bool passed = cumulative[i] <= mass;
      k += passed;
      below = passed && cumulative[i] > below ? cumulative[i] : below;
    }
    mass -= below;
    if (k == kFan) {
      mass = 0;
      do --k;
      while (k > 0 && !(child[place(k)] > 0));
    }
    return place(k);
  }

  __device__ int64_t find_block(double mass) const {
    int64_t first = 0;
    for (int64_t n = blocks; n > 1; n -= n / 2) first += prefix[first + n / 2] <= mass ? n / 2 : 0;
    if (prefix[first + 1] <= mass)
      while (first > 0 && !(sums256[first] > 0)) --first;
    return first;
  }

  // One thread, one mass; needs `prepare` and 0 <= mass < total().
  __device__ int64_t find(double mass) const {
    const int64_t block = find_block(mass);
    mass -= prefix[block];
    const int64_t group = block * kFan + descend(sums16 + block * kFan, mass);
    return group * kFan + descend(leaves + group * kFan, mass);
  }

  __device__ double total() const { return prefix[blocks]; }

  // The whole block of threads; `tile` is shared, kTile doubles. One thread adds, in order, because the CPU
  // does.
  static constexpr int kTile = 512;
  __device__ void prepare(double* tile) const {
    double sum = 0;
    for (int64_t start = 0; start < blocks; start += kTile) {
      const int count = static_cast<int>(blocks - start < kTile ? blocks - start : kTile);
      for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
        tile[i] = sums256[start + i];
      __syncthreads();
      if (threadIdx.x == 0)
        for (int i = 0; i < count; ++i) tile[i] = sum += tile[i];
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
        prefix[start + i + 1] = tile[i];
      __syncthreads();
    }
  }

  __device__ void update_group(int64_t group) const {
    const float* child = leaves + group * kFan;
    double cumulative[kFan];
    accumulate(child, cumulative);
    float most = child[0];
    MTRL_UNROLL
    for (int k = 1; k < kFan; ++k) most = child[k] > most ? child[k] : most;
    sums16[group] = cumulative[kFan - 1];
    maxima16[group] = most;
  }

  __device__ void update_block(int64_t block) const {
    double cumulative[kFan];
    accumulate(sums16 + block * kFan, cumulative);
    float most = maxima16[block * kFan];
    MTRL_UNROLL
    for (int k = 1; k < kFan; ++k)
      most = maxima16[block * kFan + k] > most ? maxima16[block * kFan + k] : most;
    sums256[block] = cumulative[kFan - 1];
    maxima256[block] = most;
  }
};
