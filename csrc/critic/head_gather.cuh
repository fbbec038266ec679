#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of critic/head_gather.h on the GPU: a row meets only its own task's head. Shapes as there; x is dense
// too.
struct HeadGatherCuda {
  int64_t critics, rows, width, outputs, tasks;
};

// start [tasks + 1] and order [rows] of rows sorted by task: task t's rows are order[start[t]], ..., in their
// order in the batch. Any order of rows is right everywhere; only the gradients of weights need this one.
void rows_by_task_cuda(int64_t rows, int64_t tasks, const int64_t* task, int64_t* start, int64_t* order,
                       cudaStream_t stream);

void head_gather_forward_cuda(const HeadGatherCuda& head, const float* x, const float* kernel,
                              const float* bias, const int64_t* task, float* y, cudaStream_t stream);

// dx [critics, rows, width] = dy kernel[task]^T.
void head_gather_input_gradient_cuda(const HeadGatherCuda& head, const float* kernel, const int64_t* task,
                                     const float* dy, float* dx, cudaStream_t stream);

// dkernel and dbias are overwritten, zero for a task without rows, and always added in the same order.
void head_gather_weight_gradient_cuda(const HeadGatherCuda& head, const float* x, const int64_t* start,
                                      const int64_t* order, const float* dy, float* dkernel, float* dbias,
                                      cudaStream_t stream);
