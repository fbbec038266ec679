#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of critic/td_target.h on the GPU, in one launch with all that the critics' loss makes of the target:
//   target[b]   = reward[b] + discount[b] * (1 - terminated[b]) * (min_e next_q[e][b] - temperature[b] *
//   log_prob[b]) dq[e][b]    = 2 * weight[b] * (q[e][b] - target[b]) / (critics * rows), the gradient of the
//   loss priority[b] = mean over e of |q[e][b] - target[b]| mean[0]     = the loss, mean over e and b of
//   weight[b] * (q[e][b] - target[b])^2;  mean[1] = mean of q
// q, next_q and dq are [critics, rows], mean is [2], the others are [rows]; all dense, on the stream's
// device. Sums go in double, always in the same order. target has the bits of the CPU's. Owns nothing.
// Where q is null only target is written; weight and the pointers after target may be null then.
struct TdTargetCuda {
  int64_t critics, rows;
  const float *reward, *terminated, *next_q, *log_prob, *temperature, *q, *weight, *discount;
  float *target, *dq, *priority, *mean;
  void* workspace;  // td_target_cuda_workspace(rows) bytes, aligned to 8: zero before the first call, zero
                    // after each
};

int64_t td_target_cuda_workspace(int64_t rows);
void td_target_cuda(const TdTargetCuda& call, cudaStream_t stream);
