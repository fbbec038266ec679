#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of critic/tanh_gaussian.h on the GPU, a thread a row. Contracts as there; exp, log1p and tanh are
// CUDA's, so the last bits may differ from the CPU's.
struct TanhGaussianCuda {
  int64_t rows, actions;
  float log_std_min, log_std_max;
};

// Where noise is null, actions are the tanh of the means, and log_prob is not written.
void tanh_gaussian_sample_cuda(const TanhGaussianCuda& g, const float* output, const float* noise,
                               float* action, int64_t action_row, float* log_prob, cudaStream_t stream);

void tanh_gaussian_backward_cuda(const TanhGaussianCuda& g, const float* output, const float* noise,
                                 const float* action, int64_t action_row, const float* daction,
                                 const float* dlog_prob, float* doutput, cudaStream_t stream);
