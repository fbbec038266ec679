#pragma once

#include <cstdint>

#include "cuda/stream.h"

// What stands around the matrix products of critic/ensemble_linear.h on the GPU; the products themselves are
// torch's (cuBLAS), or cuBLASLt's with all of this within (cuda/cublaslt.h). Shapes as there; all dense, on
// the stream's device. Owns nothing.
struct EnsembleLinearCuda {
  int64_t critics, rows, outputs, tasks;  // tasks 0: no task rows
};

// y [critics, rows, outputs] = max(0, y + bias + task_row[task]), in place; the CPU's bits.
void ensemble_linear_bias_relu_cuda(const EnsembleLinearCuda& layer, const float* bias, const float* task_row,
                                    const int64_t* task, float* y, cudaStream_t stream);

// dz = dy where y > 0, else 0; it may be dy itself.
void ensemble_linear_mask_cuda(const EnsembleLinearCuda& layer, const float* y, const float* dy, float* dz,
                               cudaStream_t stream);

// dbias [critics, outputs] and, with tasks, dtask_row [critics, tasks, outputs]; overwritten, always added in
// the same order. start and order are those of rows_by_task_cuda (null without tasks). `workspace` holds
// ensemble_linear_cuda_workspace floats.
int64_t ensemble_linear_cuda_workspace(const EnsembleLinearCuda& layer);
void ensemble_linear_bias_gradient_cuda(const EnsembleLinearCuda& layer, const float* dz,
                                        const int64_t* start, const int64_t* order, float* dbias,
                                        float* dtask_row, float* workspace, cudaStream_t stream);
