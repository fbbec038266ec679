#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of route_rows in critic/min_routing.h on the GPU: rows start[e] <= i < start[e + 1] of `row` are those
// whose least member is e, in their order. q is [members, rows], start [members + 1], row [rows], least
// [rows]: the minima. NaN counts as least. `workspace` holds `rows` int64: the least member of each row.
void route_rows_cuda(int64_t members, int64_t rows, const float* q, int64_t* start, int64_t* row,
                     float* least, int64_t* workspace, cudaStream_t stream);
