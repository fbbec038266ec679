#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of route_rows in critic/min_routing.h on the GPU: rows start[e] <= i < start[e + 1] of `row` are those
// whose least critic is e, in their order. q is [critics, rows], start [critics + 1], row [rows], least
// [rows]: the minima. NaN counts as least. `workspace` holds `rows` int64: the least critic of each row.
void route_rows_cuda(int64_t critics, int64_t rows, const float* q, int64_t* start, int64_t* row,
                     float* least, int64_t* workspace, cudaStream_t stream);

// What route_rows_cuda found: row [rows] and start [critics + 1], on the GPU, where the host never reads
// them.
struct RoutedCuda {
  int64_t critics, rows;
  const int64_t *start, *row;
};

// Twin of routed_head: for critic e's rows i, dz[i] = dq * kernel[e][task[row[i]]] where y[e][row[i]] > 0,
// else 0: the gradient before the last ReLU, through heads with one output. kernel is [critics, tasks,
// width], y [critics, rows, width], dz [rows, width].
void routed_head_cuda(const RoutedCuda& routed, int64_t tasks, int64_t width, const int64_t* task,
                      const float* kernel, float dq, const float* y, float* dz, cudaStream_t stream);

// One layer further back: z[i] = dz[i] kernel[e]^T, of which the first `cols` numbers are wanted. kernel is
// [critics, inputs, width], dz [rows, width]. With y [critics, rows, cols], twin of routed_mask: dx[i] is
// z[i] where y[e][row[i]] > 0, else 0. Where y is null the rows go home: dx[row[i]] = z[i]. dx is [rows,
// cols]. A plain product of tiles in float32; the library's takes no sizes that the GPU alone knows.
void routed_layer_cuda(const RoutedCuda& routed, int64_t width, int64_t inputs, int64_t cols, const float* dz,
                       const float* kernel, const float* y, float* dx, cudaStream_t stream);

// The same routing without moving rows, for products whose sizes the host must know: dq [critics, rows] is
// slope at each row's least critic and 0 elsewhere, the gradient of slope * sum_b min_e q[e][b].
void least_gradient_cuda(int64_t critics, int64_t rows, const float* q, float slope, float* dq, float* least,
                         cudaStream_t stream);
