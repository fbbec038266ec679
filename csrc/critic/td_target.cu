#include "critic/td_target.cuh"
#include "cuda/launch.h"
#include "cuda/reduce.h"

namespace {

constexpr int kThreads = 256;

struct Sums {
  double squares, values;
};

__device__ float td_target_of_row(const TdTargetCuda& c, int64_t b) {
  float least = c.next_q[b];
  for (int64_t e = 1; e < c.critics; ++e) {
    const float next = c.next_q[e * c.rows + b];
    if (!(next >= least) && least == least) least = next;  // a NaN is not hidden by a smaller number
  }
  return c.reward[b] + c.discount[b] * (1.0f - c.terminated[b]) * (least - c.temperature[b] * c.log_prob[b]);
}

// One thread, one row: its part of the sums over e.
__device__ Sums finish_row(const TdTargetCuda& c, int64_t b) {
  const float target = td_target_of_row(c, b), weight = c.weight[b];
  const float slope = 2.0f / static_cast<float>(c.critics * c.rows) * weight;
  Sums sums{0.0, 0.0};
  float distance = 0.0f;
  for (int64_t e = 0; e < c.critics; ++e) {
    const float q = c.q[e * c.rows + b], delta = q - target;
    c.dq[e * c.rows + b] = slope * delta;
    distance += fabsf(delta);
    sums.squares += weight * (delta * delta);
    sums.values += q;
  }
  c.target[b] = target;
  c.priority[b] = distance / static_cast<float>(c.critics);
  return sums;
}

__global__ void __launch_bounds__(kThreads) td_target_kernel(TdTargetCuda c, Sums* part, unsigned* counter) {
  __shared__ double scratch[2][kThreads / kWarp];
  __shared__ bool last;
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const Sums own = b < c.rows ? finish_row(c, b) : Sums{0.0, 0.0};
  const double squares = block_sum(own.squares, scratch[0]), values = block_sum(own.values, scratch[1]);
  if (threadIdx.x == 0) part[blockIdx.x] = {squares, values};
  if (!is_last_block(counter, &last) || threadIdx.x != 0) return;
  Sums all{0.0, 0.0};
  for (unsigned block = 0; block < gridDim.x; ++block) {
    all.squares += __ldcg(&part[block].squares);
    all.values += __ldcg(&part[block].values);
    part[block] = {0.0, 0.0};
  }
  const double count = static_cast<double>(c.critics * c.rows);
  c.mean[0] = static_cast<float>(all.squares / count);
  c.mean[1] = static_cast<float>(all.values / count);
}

__global__ void __launch_bounds__(kThreads) target_kernel(TdTargetCuda c) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b < c.rows) c.target[b] = td_target_of_row(c, b);
}

int64_t blocks_of(int64_t rows) { return (rows + kThreads - 1) / kThreads; }

}  // namespace

int64_t td_target_cuda_workspace(int64_t rows) {
  return blocks_of(rows) * static_cast<int64_t>(sizeof(Sums)) + static_cast<int64_t>(sizeof(double));
}

void td_target_cuda(const TdTargetCuda& call, cudaStream_t stream) {
  const int64_t blocks = blocks_of(call.rows);
  if (call.q == nullptr) {
    launch("soft target", target_kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, call);
    return;
  }
  auto* part = static_cast<Sums*>(call.workspace);
  auto* counter = reinterpret_cast<unsigned*>(part + blocks);
  launch("td_target", td_target_kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, call, part,
         counter);
}
