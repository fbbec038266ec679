#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of critic/adam_polyak.h on the GPU: norm, clip, Adam and Polyak average over one flat vector, in two
// launches. The count of steps lives on the device, so that a captured graph goes on counting.
struct AdamPolyakCuda {
  double lr, beta1, beta2, eps, weight_decay;
  double clip;    // the gradient is scaled so that its norm is at most this; infinity leaves it alone
  double polyak;  // target += polyak * (value - target), after the step
  int64_t n;
  const float* gradient;
  float *mean, *square, *value, *target;  // target may be null; all aligned to 16 bytes
  int64_t* steps;                         // [1] before this step; one more afterwards
  float* norm;                            // [1] of the gradient, before the clip
  void* workspace;  // adam_polyak_cuda_workspace(n) bytes, zero before the first call; aligned to 8
};

int64_t adam_polyak_cuda_workspace(int64_t n);
void adam_polyak_cuda(const AdamPolyakCuda& call, cudaStream_t stream);
