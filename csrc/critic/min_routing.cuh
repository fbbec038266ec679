#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of route_rows in critic/min_routing.h on the GPU: rows start[e] <= i < start[e + 1] of `row` are those
// whose least member is e, in their order. q is [members, rows], start [members + 1], row [rows], least
// [rows]: the minima. NaN counts as least. `workspace` holds `rows` int64: the least member of each row.
void route_rows_cuda(int64_t members, int64_t rows, const float* q, int64_t* start, int64_t* row,
                     float* least, int64_t* workspace, cudaStream_t stream);

// The same routing without moving rows, for products whose sizes the host must know: dq [members, rows] is
// slope at each row's least member and 0 elsewhere, the gradient of slope * sum_b min_e q[e][b].
void least_gradient_cuda(int64_t members, int64_t rows, const float* q, float slope, float* dq, float* least,
                         cudaStream_t stream);
