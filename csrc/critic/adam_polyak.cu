#include <cmath>

#include "critic/adam_polyak.cuh"
#include "cuda/launch.h"
#include "cuda/reduce.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 528;  // of the norm: four for each multiprocessor of an H100

struct Factors {
  float scale, beta1, left1, beta2, left2, rate, root, eps, decay, polyak;  // left = 1 - beta
};

struct Workspace {
  double* part;  // [blocks]
  Factors* factors;
  unsigned* counter;
};

__device__ Factors factors_of(const AdamPolyakCuda& c, double norm) {
  const double steps = static_cast<double>(*c.steps + 1), scale = c.clip / norm;
  const double rate = c.lr / (1.0 - pow(c.beta1, steps));
  const double root = 1.0 / sqrt(1.0 - pow(c.beta2, steps));
  return {static_cast<float>(scale > 1.0 ? 1.0 : scale),
          static_cast<float>(c.beta1),
          static_cast<float>(1.0 - c.beta1),
          static_cast<float>(c.beta2),
          static_cast<float>(1.0 - c.beta2),
          static_cast<float>(rate),
          static_cast<float>(root),
          static_cast<float>(c.eps),
          static_cast<float>(1.0 - c.lr * c.weight_decay),
          static_cast<float>(c.polyak)};
}

// The number of blocks is a function of n alone, and so are the sums' bits.
__global__ void __launch_bounds__(kThreads) norm_kernel(AdamPolyakCuda c, Workspace w) {
  __shared__ double scratch[kThreads / kWarp];
  __shared__ bool last;
  const int64_t whole = c.n / 4, all = int64_t{gridDim.x} * kThreads;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  double squares = 0.0;
  for (int64_t i = first; i < whole; i += all) {
    const float4 g = reinterpret_cast<const float4*>(c.gradient)[i];
    squares += (g.x * g.x + g.y * g.y) + (g.z * g.z + g.w * g.w);
  }
  if (first < c.n - 4 * whole) squares += c.gradient[4 * whole + first] * c.gradient[4 * whole + first];
  squares = block_sum(squares, scratch);
  if (threadIdx.x == 0) w.part[blockIdx.x] = squares;
  if (!is_last_block(w.counter, &last)) return;
  double sum = 0.0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kThreads) sum += __ldcg(&w.part[block]);
  sum = block_sum(sum, scratch);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  *c.norm = static_cast<float>(norm);
  *w.factors = factors_of(c, norm);
  ++*c.steps;
}

__device__ void advance(const Factors& f, float gradient, float& mean, float& square, float& value) {
  const float g = gradient * f.scale;
  mean = f.beta1 * mean + f.left1 * g;
  square = f.beta2 * square + f.left2 * (g * g);
  value = value * f.decay - f.rate * mean / (sqrtf(square) * f.root + f.eps);
}

__global__ void __launch_bounds__(kThreads) apply_kernel(AdamPolyakCuda c, const Factors* factors) {
  const Factors f = *factors;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, whole = c.n / 4;
  if (i < whole) {
    const float4 gradient = reinterpret_cast<const float4*>(c.gradient)[i];
    float4 mean = reinterpret_cast<float4*>(c.mean)[i], square = reinterpret_cast<float4*>(c.square)[i];
    float4 value = reinterpret_cast<float4*>(c.value)[i];
    advance(f, gradient.x, mean.x, square.x, value.x);
    advance(f, gradient.y, mean.y, square.y, value.y);
    advance(f, gradient.z, mean.z, square.z, value.z);
    advance(f, gradient.w, mean.w, square.w, value.w);
    reinterpret_cast<float4*>(c.mean)[i] = mean;
    reinterpret_cast<float4*>(c.square)[i] = square;
    reinterpret_cast<float4*>(c.value)[i] = value;
    if (c.target == nullptr) return;
    float4 target = reinterpret_cast<float4*>(c.target)[i];
    target.x += f.polyak * (value.x - target.x);
    target.y += f.polyak * (value.y - target.y);
    target.z += f.polyak * (value.z - target.z);
    target.w += f.polyak * (value.w - target.w);
    reinterpret_cast<float4*>(c.target)[i] = target;
  } else if (const int64_t rest = 4 * whole + (i - whole); rest < c.n) {
    advance(f, c.gradient[rest], c.mean[rest], c.square[rest], c.value[rest]);
    if (c.target != nullptr) c.target[rest] += f.polyak * (c.value[rest] - c.target[rest]);
  }
}

int64_t blocks_of(int64_t n) { return (n / 4 + n % 4 + kThreads - 1) / kThreads; }
int64_t norm_blocks(int64_t n) { return blocks_of(n) < kMostBlocks ? blocks_of(n) : kMostBlocks; }

}  // namespace

int64_t adam_polyak_cuda_workspace(int64_t n) {
  return norm_blocks(n) * static_cast<int64_t>(sizeof(double)) + static_cast<int64_t>(sizeof(Factors)) + 8;
}

void adam_polyak_cuda(const AdamPolyakCuda& call, cudaStream_t stream) {
  auto* part = static_cast<double*>(call.workspace);
  auto* factors = reinterpret_cast<Factors*>(part + norm_blocks(call.n));
  const Workspace w{part, factors, reinterpret_cast<unsigned*>(factors + 1)};
  launch("adam norm", norm_kernel, static_cast<unsigned>(norm_blocks(call.n)), kThreads, 0, stream, call, w);
  launch("adam apply", apply_kernel, static_cast<unsigned>(blocks_of(call.n)), kThreads, 0, stream, call,
         factors);
}
