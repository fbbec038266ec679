#pragma once

#include <cstdint>

// The gradient of min_e Q_e reaches one critic per row: the first that attains the minimum. (torch.amin would
// split it among equal critics, as Q's are only where critics are identical.)

// Sorts rows by their least critic, keeping their order: rows start[e] <= i < start[e + 1] of `row` are those
// whose least critic is e. q is [critics, rows], start [critics + 1], row [rows], least [rows]: the minima.
// NaN counts as least.
void route_rows(int64_t critics, int64_t rows, const float* q, int64_t* start, int64_t* row, float* least);

// dz[r] = dq * kernel[task[row[r]]] where y[row[r]] > 0, else 0: the gradient before the last ReLU of the
// chosen rows of one critic, through a head with one output. kernel is [tasks, width].
void routed_head(int64_t rows, int64_t width, const int64_t* row, const int64_t* task, const float* kernel,
                 float dq, const float* y, int64_t y_row, float* dz, int64_t dz_row);

// dz[r] = 0 where y[row[r]] <= 0.
void routed_mask(int64_t rows, int64_t cols, const int64_t* row, const float* y, int64_t y_row, float* dz,
                 int64_t dz_row);
