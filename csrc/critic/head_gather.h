#pragma once

#include <cstdint>

// The heads of a multi-head ensemble: y[e][b] = x[e][b] kernel[e][task[b]] + bias[e][task[b]]; a row meets
// only its own task's head.
//
//   x [critics, rows, width], its rows x_row floats apart;  kernel [critics, tasks, width, outputs];
//   bias [critics, tasks, outputs];  task [rows] with 0 <= task < tasks;  y [critics, rows, outputs];
//   all row-major and, but for x and its gradient dx, dense.
//
// Neighbouring rows of one task are taken together: rows ordered by task are fastest, any order is right.
// Owns nothing. `workspace` holds head_gather_workspace floats and is free again afterwards.
struct HeadGather {
  int64_t critics, rows, width, outputs, tasks, x_row;
};

int64_t head_gather_workspace(const HeadGather& head);

void head_gather_forward(const HeadGather& head, const float* x, const float* kernel, const float* bias,
                         const int64_t* task, float* y, float* workspace);

// Gradients from dy [critics, rows, outputs]; kernel is read for dx alone. dx [critics, rows, width] may be
// null where it is not wanted, and so may dkernel and dbias together. Both are overwritten, and are zero for
// a task without rows; sums go by blocks of at most 256 rows.
void head_gather_backward(const HeadGather& head, const float* x, const float* kernel, const int64_t* task,
                          const float* dy, float* dx, float* dkernel, float* dbias, float* workspace);
