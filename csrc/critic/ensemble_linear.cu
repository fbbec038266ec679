#include "critic/ensemble_linear.cuh"
#include "cuda/launch.h"
#include "cuda/reduce.h"

namespace {

constexpr int kRowsPerBlock = 8;  // a warp a row
constexpr int kThreads = 256;
constexpr int64_t kSegment = 256;  // rows summed together where there are no tasks

// NaN stays NaN, as on the CPU.
__device__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// `Number` is float4 where a row is a whole number of them, else float.
__device__ void add_relu(float& y, float bias, float own) { y = relu(y + (bias + own)); }
__device__ void add_relu(float4& y, const float4& bias, const float4& own) {
  add_relu(y.x, bias.x, own.x);
  add_relu(y.y, bias.y, own.y);
  add_relu(y.z, bias.z, own.z);
  add_relu(y.w, bias.w, own.w);
}
__device__ void add_relu(float& y, float bias) { y = relu(y + bias); }
__device__ void add_relu(float4& y, const float4& bias) {
  add_relu(y.x, bias.x);
  add_relu(y.y, bias.y);
  add_relu(y.z, bias.z);
  add_relu(y.w, bias.w);
}

template <class Number>
__global__ void __launch_bounds__(kThreads)
    bias_relu_kernel(EnsembleLinearCuda l, int64_t cols, const Number* bias, const Number* task_row,
                     const int64_t* task, Number* y) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= l.critics * l.rows) return;
  const int64_t e = row / l.rows, b = row % l.rows;
  const Number* own = task_row == nullptr ? nullptr : task_row + (e * l.tasks + task[b]) * cols;
  for (int64_t j = threadIdx.x % kWarp; j < cols; j += kWarp) {
    Number value = y[row * cols + j];
    if (own == nullptr)
      add_relu(value, bias[e * cols + j]);
    else
      add_relu(value, bias[e * cols + j], own[j]);
    y[row * cols + j] = value;
  }
}

__global__ void __launch_bounds__(kThreads)
    mask_kernel(int64_t n, const float* y, const float* dy, float* dz) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) dz[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

// One block: 32 columns of one critic's sum over one segment, that is one task's rows or kSegment neighbours.
__global__ void __launch_bounds__(kThreads)
    segment_sums_kernel(EnsembleLinearCuda l, const float* dz, const int64_t* start, const int64_t* order,
                        float* sum) {
  __shared__ float part[kRowsPerBlock][kWarp];
  const int64_t segment = blockIdx.y, segments = gridDim.y, e = blockIdx.z;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, part_of = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t j = int64_t{blockIdx.x} * kWarp + lane;
  const int64_t first = order == nullptr ? segment * kSegment : start[segment];
  const int64_t past = order == nullptr ? first + kSegment : start[segment + 1],
                end = past < l.rows ? past : l.rows;
  float total = 0.0f;
  if (j < l.outputs)
    for (int64_t i = first + part_of; i < end; i += kRowsPerBlock)
      total += dz[(e * l.rows + (order == nullptr ? i : order[i])) * l.outputs + j];
  part[part_of][lane] = total;
  __syncthreads();
  if (part_of != 0 || j >= l.outputs) return;
  for (int k = 1; k < kRowsPerBlock; ++k) total += part[k][lane];
  sum[(e * segments + segment) * l.outputs + j] = total;
}

__global__ void __launch_bounds__(kThreads)
    add_segments_kernel(EnsembleLinearCuda l, int64_t segments, const float* sum, float* dbias) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= l.critics * l.outputs) return;
  const int64_t e = i / l.outputs, j = i % l.outputs;
  float total = 0.0f;
  for (int64_t s = 0; s < segments; ++s) total += sum[(e * segments + s) * l.outputs + j];
  dbias[i] = total;
}

int64_t segments_of(const EnsembleLinearCuda& l) {
  return l.tasks > 0 ? l.tasks : (l.rows + kSegment - 1) / kSegment;
}

unsigned blocks_of(int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); }

bool fits_float4(int64_t cols, const void* a, const void* b, const void* c) {
  const auto bits =
      reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(c);
  return cols % 4 == 0 && bits % sizeof(float4) == 0;
}

}  // namespace

void ensemble_linear_bias_relu_cuda(const EnsembleLinearCuda& layer, const float* bias, const float* task_row,
                                    const int64_t* task, float* y, cudaStream_t stream) {
  const unsigned blocks = blocks_of(layer.critics * layer.rows, kRowsPerBlock);
  if (fits_float4(layer.outputs, bias, task_row, y)) {
    launch("bias and ReLU", bias_relu_kernel<float4>, blocks, kThreads, 0, stream, layer, layer.outputs / 4,
           reinterpret_cast<const float4*>(bias), reinterpret_cast<const float4*>(task_row), task,
           reinterpret_cast<float4*>(y));
  } else {
    launch("bias and ReLU", bias_relu_kernel<float>, blocks, kThreads, 0, stream, layer, layer.outputs, bias,
           task_row, task, y);
  }
}

void ensemble_linear_mask_cuda(const EnsembleLinearCuda& layer, const float* y, const float* dy, float* dz,
                               cudaStream_t stream) {
  const int64_t n = layer.critics * layer.rows * layer.outputs;
  launch("ReLU mask", mask_kernel, blocks_of(n, kThreads), kThreads, 0, stream, n, y, dy, dz);
}

int64_t ensemble_linear_cuda_workspace(const EnsembleLinearCuda& layer) {
  return layer.tasks > 0 ? 0 : layer.critics * segments_of(layer) * layer.outputs;
}

void ensemble_linear_bias_gradient_cuda(const EnsembleLinearCuda& layer, const float* dz,
                                        const int64_t* start, const int64_t* order, float* dbias,
                                        float* dtask_row, float* workspace, cudaStream_t stream) {
  const int64_t segments = segments_of(layer);
  float* sum = layer.tasks > 0 ? dtask_row : workspace;
  const dim3 blocks(blocks_of(layer.outputs, kWarp), static_cast<unsigned>(segments),
                    static_cast<unsigned>(layer.critics));
  launch("bias gradient", segment_sums_kernel, blocks, kThreads, 0, stream, layer, dz, start, order, sum);
  launch("bias gradient", add_segments_kernel, blocks_of(layer.critics * layer.outputs, kThreads), kThreads,
         0, stream, layer, segments, sum, dbias);
}
