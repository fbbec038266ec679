#include <cmath>

#include "critic/min_routing.cuh"
#include "cuda/launch.h"
#include "cuda/stable_order.cuh"

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    least_kernel(int64_t members, int64_t rows, const float* q, int64_t* member, float* least) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b >= rows) return;
  int64_t found = 0;
  float best = q[b];
  for (int64_t e = 1; e < members; ++e) {
    const float value = q[e * rows + b];
    if (value >= best || best != best) continue;
    found = e;
    best = value;
  }
  member[b] = found;
  least[b] = best;
}

}  // namespace

void route_rows_cuda(int64_t members, int64_t rows, const float* q, int64_t* start, int64_t* row,
                     float* least, int64_t* workspace, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((rows + kThreads - 1) / kThreads);
  launch("least member", least_kernel, blocks, kThreads, 0, stream, members, rows, q, workspace, least);
  stable_order::sort(rows, members, workspace, start, row, stream);
}
