#include <cmath>

#include "critic/min_routing.cuh"
#include "cuda/launch.h"
#include "cuda/stable_order.cuh"

namespace {

constexpr int kThreads = 256;

__device__ int64_t least_member(int64_t critics, int64_t rows, const float* q, int64_t b, float& best) {
  int64_t found = 0;
  best = q[b];
  for (int64_t e = 1; e < critics; ++e) {
    const float value = q[e * rows + b];
    if (value >= best || best != best) continue;
    found = e;
    best = value;
  }
  return found;
}

__global__ void __launch_bounds__(kThreads)
    least_kernel(int64_t critics, int64_t rows, const float* q, int64_t* critic, float* least) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b < rows) critic[b] = least_member(critics, rows, q, b, least[b]);
}

__global__ void __launch_bounds__(kThreads)
    gradient_kernel(int64_t critics, int64_t rows, const float* q, float slope, float* dq, float* least) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b >= rows) return;
  const int64_t own = least_member(critics, rows, q, b, least[b]);
  for (int64_t e = 0; e < critics; ++e) dq[e * rows + b] = e == own ? slope : 0.0f;
}

__device__ int64_t member_of(const RoutedCuda& r, int64_t i) {
  int64_t e = 0;
  while (r.start[e + 1] <= i) ++e;
  return e;
}

// A warp, a row.
__global__ void __launch_bounds__(kThreads)
    head_kernel(RoutedCuda r, int64_t tasks, int64_t width, const int64_t* task, const float* kernel,
                float dq, const float* y, float* dz) {
  const int64_t i = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= r.rows) return;
  const int64_t e = member_of(r, i), b = r.row[i];
  const float *own = kernel + (e * tasks + task[b]) * width, *alive = y + (e * r.rows + b) * width;
  for (int64_t j = threadIdx.x % kWarp; j < width; j += kWarp)
    dz[i * width + j] = alive[j] > 0.0f ? dq * own[j] : 0.0f;
}

constexpr int kTile = 64, kStep = 16;  // a block's rows and columns, and how far it goes between barriers
constexpr int kSide = kTile / 4;       // a thread's 4 x 4 numbers lie so far apart

// kTile rows of `from`, kStep numbers each, transposed into shared memory; 0 beyond `rows` and `steps`.
__device__ void load_tile(float (*tile)[kTile + 1], const float* from, int64_t row_size, int64_t rows,
                          int64_t steps) {
  const int p = static_cast<int>(threadIdx.x) % kStep;
  for (int i = static_cast<int>(threadIdx.x) / kStep; i < kTile; i += kThreads / kStep)
    tile[p][i] = i < rows && p < steps ? from[i * row_size + p] : 0.0f;
}

// One block: a tile of one critic's rows by kTile columns. Each critic's rows begin a tile of their own, so
// of the blocks that are launched for the most tiles there can be, up to `critics` find none.
__global__ void __launch_bounds__(kThreads)
    layer_kernel(RoutedCuda r, int64_t width, int64_t inputs, int64_t cols, const float* dz,
                 const float* kernel, const float* y, float* dx) {
  __shared__ float left[kStep][kTile + 1];
  __shared__ float right[kStep][kTile + 1];
  int64_t e = 0, first = int64_t{blockIdx.y} * kTile;
  for (; e < r.critics; ++e) {
    const int64_t room = (r.start[e + 1] - r.start[e] + kTile - 1) / kTile * kTile;
    if (first < room) break;
    first -= room;
  }
  if (e == r.critics) return;
  first += r.start[e];
  const int64_t rows = r.start[e + 1] - first, column = int64_t{blockIdx.x} * kTile;
  const int down = static_cast<int>(threadIdx.x) / kSide, across = static_cast<int>(threadIdx.x) % kSide;
  float sum[4][4] = {};
  for (int64_t p = 0; p < width; p += kStep) {
    load_tile(left, dz + first * width + p, width, rows, width - p);
    load_tile(right, kernel + (e * inputs + column) * width + p, width, cols - column, width - p);
    __syncthreads();
    for (int step = 0; step < kStep; ++step) {
      MTRL_UNROLL
      for (int i = 0; i < 4; ++i) {
        MTRL_UNROLL
        for (int j = 0; j < 4; ++j)
          sum[i][j] = fmaf(left[step][down + i * kSide], right[step][across + j * kSide], sum[i][j]);
      }
    }
    __syncthreads();
  }
  MTRL_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t at = first + down + i * kSide;
    if (at >= r.start[e + 1]) break;
    const int64_t b = r.row[at], to = y == nullptr ? b : at;
    MTRL_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t k = column + across + j * kSide;
      if (k >= cols) break;
      const bool alive = y == nullptr || y[(e * r.rows + b) * cols + k] > 0.0f;
      dx[to * cols + k] = alive ? sum[i][j] : 0.0f;
    }
  }
}

unsigned blocks_of(int64_t rows) { return static_cast<unsigned>((rows + kThreads - 1) / kThreads); }

}  // namespace

void route_rows_cuda(int64_t critics, int64_t rows, const float* q, int64_t* start, int64_t* row,
                     float* least, int64_t* workspace, cudaStream_t stream) {
  launch("least critic", least_kernel, blocks_of(rows), kThreads, 0, stream, critics, rows, q, workspace,
         least);
  stable_order::sort(rows, critics, workspace, start, row, stream);
}

void routed_head_cuda(const RoutedCuda& routed, int64_t tasks, int64_t width, const int64_t* task,
                      const float* kernel, float dq, const float* y, float* dz, cudaStream_t stream) {
  launch("routed head", head_kernel, blocks_of(routed.rows * kWarp), kThreads, 0, stream, routed, tasks,
         width, task, kernel, dq, y, dz);
}

void routed_layer_cuda(const RoutedCuda& routed, int64_t width, int64_t inputs, int64_t cols, const float* dz,
                       const float* kernel, const float* y, float* dx, cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>((cols + kTile - 1) / kTile),
                    static_cast<unsigned>(routed.rows / kTile + routed.critics));
  launch("routed layer", layer_kernel, blocks, kThreads, 0, stream, routed, width, inputs, cols, dz, kernel,
         y, dx);
}

void least_gradient_cuda(int64_t critics, int64_t rows, const float* q, float slope, float* dq, float* least,
                         cudaStream_t stream) {
  launch("least gradient", gradient_kernel, blocks_of(rows), kThreads, 0, stream, critics, rows, q, slope, dq,
         least);
}
