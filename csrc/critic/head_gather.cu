#include "critic/head_gather.cuh"
#include "cuda/launch.h"
#include "cuda/reduce.h"
#include "cuda/stable_order.cuh"

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kOutputs = 8;  // of a head, held in registers together: an actor's 4 means and 4 log-stds

// One warp, one row of one critic: `wide` outputs from `first` on.
template <int wide>
__device__ void forward_row(const HeadGatherCuda& h, const float* x, const float* kernel, const float* bias,
                            float* y, int64_t first) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float sum[wide] = {};
  for (int64_t j = lane; j < h.width; j += kWarp) {
    MTRL_UNROLL
    for (int o = 0; o < wide; ++o)
      if (first + o < h.outputs) sum[o] = fmaf(x[j], kernel[j * h.outputs + first + o], sum[o]);
  }
  MTRL_UNROLL
  for (int o = 0; o < wide; ++o) {
    const float total = warp_sum(sum[o]);
    if (lane == 0 && first + o < h.outputs) y[first + o] = total + bias[first + o];
  }
}

template <int wide>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(HeadGatherCuda h, const float* x, const float* kernel, const float* bias,
                   const int64_t* task, float* y) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= h.critics * h.rows) return;
  const int64_t own = row / h.rows * h.tasks + task[row % h.rows];
  for (int64_t first = 0; first < h.outputs; first += wide)
    forward_row<wide>(h, x + row * h.width, kernel + own * h.width * h.outputs, bias + own * h.outputs,
                      y + row * h.outputs, first);
}

__global__ void __launch_bounds__(kThreads)
    input_gradient_kernel(HeadGatherCuda h, const float* kernel, const int64_t* task, const float* dy,
                          float* dx) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= h.critics * h.rows) return;
  const float* own = kernel + (row / h.rows * h.tasks + task[row % h.rows]) * h.width * h.outputs;
  for (int64_t j = threadIdx.x % kWarp; j < h.width; j += kWarp) {
    float sum = 0.0f;
    for (int64_t o = 0; o < h.outputs; ++o) sum = fmaf(dy[row * h.outputs + o], own[j * h.outputs + o], sum);
    dx[row * h.width + j] = sum;
  }
}

// One block: 32 inputs of one critic's head of one task, up to `wide` outputs; the warps share out the rows.
template <int wide>
__global__ void __launch_bounds__(kThreads)
    weight_gradient_kernel(HeadGatherCuda h, const float* x, const int64_t* start, const int64_t* order,
                           const float* dy, float* dkernel, float* dbias) {
  __shared__ float part[kWarps][kWarp][wide];
  __shared__ float bias_part[kWarps][wide];
  const int64_t t = blockIdx.y, e = blockIdx.z, own = e * h.tasks + t;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t j = int64_t{blockIdx.x} * kWarp + lane;
  for (int64_t first = 0; first < h.outputs; first += wide) {
    float sum[wide] = {}, bias_sum[wide] = {};
    for (int64_t i = start[t] + warp; i < start[t + 1]; i += kWarps) {
      const int64_t row = e * h.rows + order[i];
      const float input = j < h.width ? x[row * h.width + j] : 0.0f;
      MTRL_UNROLL
      for (int o = 0; o < wide; ++o) {
        const float slope = first + o < h.outputs ? dy[row * h.outputs + first + o] : 0.0f;
        sum[o] = fmaf(input, slope, sum[o]);
        bias_sum[o] += slope;
      }
    }
    MTRL_UNROLL
    for (int o = 0; o < wide; ++o) {
      part[warp][lane][o] = sum[o];
      if (lane == 0) bias_part[warp][o] = bias_sum[o];
    }
    __syncthreads();
    if (warp == 0) {
      MTRL_UNROLL
      for (int o = 0; o < wide; ++o) {
        for (int w = 1; w < kWarps; ++w) {
          sum[o] += part[w][lane][o];
          bias_sum[o] += bias_part[w][o];
        }
        if (j < h.width && first + o < h.outputs)
          dkernel[(own * h.width + j) * h.outputs + first + o] = sum[o];
        if (j == 0 && first + o < h.outputs) dbias[own * h.outputs + first + o] = bias_sum[o];
      }
    }
    __syncthreads();
  }
}

unsigned blocks_of(int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); }

}  // namespace

void rows_by_task_cuda(int64_t rows, int64_t tasks, const int64_t* task, int64_t* start, int64_t* order,
                       cudaStream_t stream) {
  stable_order::sort(rows, tasks, task, start, order, stream);
}

void head_gather_forward_cuda(const HeadGatherCuda& head, const float* x, const float* kernel,
                              const float* bias, const int64_t* task, float* y, cudaStream_t stream) {
  launch("head gather", head.outputs == 1 ? forward_kernel<1> : forward_kernel<kOutputs>,
         blocks_of(head.critics * head.rows, kWarps), kThreads, 0, stream, head, x, kernel, bias, task, y);
}

void head_gather_input_gradient_cuda(const HeadGatherCuda& head, const float* kernel, const int64_t* task,
                                     const float* dy, float* dx, cudaStream_t stream) {
  launch("head input gradient", input_gradient_kernel, blocks_of(head.critics * head.rows, kWarps), kThreads,
         0, stream, head, kernel, task, dy, dx);
}

void head_gather_weight_gradient_cuda(const HeadGatherCuda& head, const float* x, const int64_t* start,
                                      const int64_t* order, const float* dy, float* dkernel, float* dbias,
                                      cudaStream_t stream) {
  const dim3 blocks(blocks_of(head.width, kWarp), static_cast<unsigned>(head.tasks),
                    static_cast<unsigned>(head.critics));
  launch("head weight gradient",
         head.outputs == 1 ? weight_gradient_kernel<1> : weight_gradient_kernel<kOutputs>, blocks, kThreads,
         0, stream, head, x, start, order, dy, dkernel, dbias);
}
