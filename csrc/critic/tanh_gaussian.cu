#include <cmath>

#include "critic/tanh_gaussian.cuh"
#include "cuda/launch.h"

namespace {

constexpr int kThreads = 128;

// NaN stays NaN, which fminf and fmaxf would hide.
__device__ float clipped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

__global__ void __launch_bounds__(kThreads)
    sample_kernel(TanhGaussianCuda g, const float* output, const float* noise, float* action,
                  int64_t action_row, float* log_prob) {
  constexpr float kLog2 = 0.693147181f, kHalfLog2Pi = 0.918938533f;
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b >= g.rows) return;
  const float *mean = output + 2 * b * g.actions, *raw = mean + g.actions;
  float* own = action + b * action_row;
  float sum = 0.0f;
  for (int64_t a = 0; a < g.actions; ++a) {
    if (noise == nullptr) {
      own[a] = tanhf(mean[a]);
      continue;
    }
    const float eps = noise[b * g.actions + a], log_std = clipped(raw[a], g.log_std_min, g.log_std_max);
    const float u = mean[a] + expf(log_std) * eps;
    const float log_squash = 2.0f * (kLog2 - fabsf(u) - log1pf(expf(-2.0f * fabsf(u))));
    sum += -0.5f * eps * eps - log_std - kHalfLog2Pi - log_squash;
    own[a] = tanhf(u);
  }
  if (noise != nullptr) log_prob[b] = sum;
}

__global__ void __launch_bounds__(kThreads)
    backward_kernel(TanhGaussianCuda g, const float* output, const float* noise, const float* action,
                    int64_t action_row, const float* daction, const float* dlog_prob, float* doutput) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b >= g.rows) return;
  const float* raw = output + (2 * b + 1) * g.actions;
  float *dmean = doutput + 2 * b * g.actions, *dlog_std = dmean + g.actions;
  for (int64_t a = 0; a < g.actions; ++a) {
    const float y = action[b * action_row + a];
    const float du = daction[b * g.actions + a] * (1.0f - y * y) + dlog_prob[b] * 2.0f * y;
    const bool inside = raw[a] >= g.log_std_min && raw[a] <= g.log_std_max;
    dmean[a] = du;
    dlog_std[a] = inside ? du * expf(raw[a]) * noise[b * g.actions + a] - dlog_prob[b] : 0.0f;
  }
}

unsigned blocks_of(int64_t rows) { return static_cast<unsigned>((rows + kThreads - 1) / kThreads); }

}  // namespace

void tanh_gaussian_sample_cuda(const TanhGaussianCuda& g, const float* output, const float* noise,
                               float* action, int64_t action_row, float* log_prob, cudaStream_t stream) {
  launch("tanh gaussian", sample_kernel, blocks_of(g.rows), kThreads, 0, stream, g, output, noise, action,
         action_row, log_prob);
}

void tanh_gaussian_backward_cuda(const TanhGaussianCuda& g, const float* output, const float* noise,
                                 const float* action, int64_t action_row, const float* daction,
                                 const float* dlog_prob, float* doutput, cudaStream_t stream) {
  launch("tanh gaussian gradient", backward_kernel, blocks_of(g.rows), kThreads, 0, stream, g, output, noise,
         action, action_row, daction, dlog_prob, doutput);
}
