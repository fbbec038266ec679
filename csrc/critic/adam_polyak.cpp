#include "critic/adam_polyak.h"

#include <algorithm>
#include <cmath>

#include "critic/instruction_set.h"

namespace {

constexpr int64_t kLanes = 16;    // partial sums; the same for every instruction set
constexpr int64_t kBlock = 4096;  // floats summed in single precision before they join the double

MTRL_BODY void sum_squares_body(int64_t n, const float* x, double* sum) {
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) lane[k] += x[i + k] * x[i + k];
  }
  for (; i < n; ++i) lane[i % kLanes] += x[i] * x[i];
  for (int64_t k = 0; k < kLanes; ++k) *sum += lane[k];
}
MTRL_BEST(sum_squares, (int64_t n, const float* x, double* sum), (n, x, sum))

struct Factors {
  float scale, beta1, left1, beta2, left2, rate, root, eps, decay, polyak;  // left = 1 - beta
};

MTRL_BODY void advance_body(int64_t n, const Factors& factors, const float* __restrict gradient,
                            float* __restrict mean, float* __restrict square, float* __restrict value,
                            float* __restrict target) {
  const Factors f = factors;
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * f.scale;
    mean[i] = f.beta1 * mean[i] + f.left1 * g;
    square[i] = f.beta2 * square[i] + f.left2 * (g * g);
    value[i] = value[i] * f.decay - f.rate * mean[i] / (std::sqrt(square[i]) * f.root + f.eps);
    if (target) target[i] += f.polyak * (value[i] - target[i]);
  }
}
MTRL_BEST(advance,
          (int64_t n, const Factors& f, const float* gradient, float* mean, float* square, float* value,
           float* target),
          (n, f, gradient, mean, square, value, target))

}  // namespace

double squared_norm(int64_t n, const float* gradient) {
  double squares = 0.0;
  for (int64_t i = 0; i < n; i += kBlock) sum_squares(std::min(kBlock, n - i), gradient + i, &squares);
  return squares;
}

void adam_polyak_apply(const AdamPolyak& step, double norm, int64_t n, const float* gradient, float* mean,
                       float* square, float* value, float* target) {
  const double steps = static_cast<double>(step.steps), scale = step.clip / norm;
  const double rate = step.lr / (1.0 - std::pow(step.beta1, steps));
  const double root = 1.0 / std::sqrt(1.0 - std::pow(step.beta2, steps));
  const auto single = [](double x) { return static_cast<float>(x); };
  const Factors factors{single(scale > 1.0 ? 1.0 : scale),
                        single(step.beta1),
                        single(1.0 - step.beta1),
                        single(step.beta2),
                        single(1.0 - step.beta2),
                        single(rate),
                        single(root),
                        single(step.eps),
                        single(1.0 - step.lr * step.weight_decay),
                        single(step.polyak)};
  advance(n, factors, gradient, mean, square, value, target);
}

double adam_polyak(const AdamPolyak& step, int64_t n, const float* gradient, float* mean, float* square,
                   float* value, float* target) {
  double squares = 0.0;
  for (int64_t i = 0; i < n; i += kAdamChunk)
    squares += squared_norm(std::min(kAdamChunk, n - i), gradient + i);
  const double norm = std::sqrt(squares);
  adam_polyak_apply(step, norm, n, gradient, mean, square, value, target);
  return norm;
}
