#include <cmath>

#include "critic/min_routing.cuh"
#include "cuda/launch.h"
#include "cuda/stable_order.cuh"

namespace {

constexpr int kThreads = 256;

__device__ int64_t least_member(int64_t members, int64_t rows, const float* q, int64_t b, float& best) {
  int64_t found = 0;
  best = q[b];
  for (int64_t e = 1; e < members; ++e) {
    const float value = q[e * rows + b];
    if (value >= best || best != best) continue;
    found = e;
    best = value;
  }
  return found;
}

__global__ void __launch_bounds__(kThreads)
    least_kernel(int64_t members, int64_t rows, const float* q, int64_t* member, float* least) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b < rows) member[b] = least_member(members, rows, q, b, least[b]);
}

__global__ void __launch_bounds__(kThreads)
    gradient_kernel(int64_t members, int64_t rows, const float* q, float slope, float* dq, float* least) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b >= rows) return;
  const int64_t own = least_member(members, rows, q, b, least[b]);
  for (int64_t e = 0; e < members; ++e) dq[e * rows + b] = e == own ? slope : 0.0f;
}

unsigned blocks_of(int64_t rows) { return static_cast<unsigned>((rows + kThreads - 1) / kThreads); }

}  // namespace

void route_rows_cuda(int64_t members, int64_t rows, const float* q, int64_t* start, int64_t* row,
                     float* least, int64_t* workspace, cudaStream_t stream) {
  launch("least member", least_kernel, blocks_of(rows), kThreads, 0, stream, members, rows, q, workspace,
         least);
  stable_order::sort(rows, members, workspace, start, row, stream);
}

void least_gradient_cuda(int64_t members, int64_t rows, const float* q, float slope, float* dq, float* least,
                         cudaStream_t stream) {
  launch("least gradient", gradient_kernel, blocks_of(rows), kThreads, 0, stream, members, rows, q, slope, dq,
         least);
}
