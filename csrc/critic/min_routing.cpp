#include "critic/min_routing.h"

#include <cmath>

#include "critic/instruction_set.h"

void route_rows(int64_t critics, int64_t rows, const float* q, int64_t* start, int64_t* row, float* least) {
  auto find = [&](int64_t b) {
    int64_t found = 0;
    for (int64_t e = 1; e < critics; ++e) {
      const float value = q[e * rows + b], best = q[found * rows + b];
      if (!(value >= best) && !std::isnan(best)) found = e;
    }
    return found;
  };
  for (int64_t e = 0; e <= critics; ++e) start[e] = 0;
  for (int64_t b = 0; b < rows; ++b) ++start[find(b) + 1];
  for (int64_t e = 0; e < critics; ++e) start[e + 1] += start[e];
  for (int64_t b = 0; b < rows; ++b) {
    const int64_t e = find(b);
    least[b] = q[e * rows + b];
    row[start[e]++] = b;
  }
  for (int64_t e = critics; e > 0; --e) start[e] = start[e - 1];
  start[0] = 0;
}

namespace {

MTRL_BODY void routed_head_body(int64_t rows, int64_t width, const int64_t* row, const int64_t* task,
                                const float* kernel, float dq, const float* y, int64_t y_row, float* dz,
                                int64_t dz_row) {
  for (int64_t r = 0; r < rows; ++r, dz += dz_row) {
    const float *own = kernel + task[row[r]] * width, *alive = y + row[r] * y_row;
    for (int64_t j = 0; j < width; ++j) dz[j] = alive[j] > 0.0f ? dq * own[j] : 0.0f;
  }
}

MTRL_BODY void routed_mask_body(int64_t rows, int64_t cols, const int64_t* row, const float* y, int64_t y_row,
                                float* dz, int64_t dz_row) {
  for (int64_t r = 0; r < rows; ++r, dz += dz_row) {
    const float* alive = y + row[r] * y_row;
    for (int64_t j = 0; j < cols; ++j) dz[j] = alive[j] > 0.0f ? dz[j] : 0.0f;
  }
}

}  // namespace

MTRL_BEST(routed_head,
          (int64_t rows, int64_t width, const int64_t* row, const int64_t* task, const float* kernel,
           float dq, const float* y, int64_t y_row, float* dz, int64_t dz_row),
          (rows, width, row, task, kernel, dq, y, y_row, dz, dz_row))

MTRL_BEST(routed_mask,
          (int64_t rows, int64_t cols, const int64_t* row, const float* y, int64_t y_row, float* dz,
           int64_t dz_row),
          (rows, cols, row, y, y_row, dz, dz_row))
