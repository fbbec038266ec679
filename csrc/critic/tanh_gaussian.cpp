#include "critic/tanh_gaussian.h"

#include <algorithm>
#include <cmath>

void tanh_gaussian_sample(const TanhGaussian& g, const float* output, const float* noise, float* action,
                          int64_t action_row, float* log_prob) {
  constexpr float kLog2 = 0.693147181f, kHalfLog2Pi = 0.918938533f;
  for (int64_t b = 0; b < g.rows; ++b) {
    const float *mean = output + 2 * b * g.actions, *raw = mean + g.actions, *eps = noise + b * g.actions;
    float sum = 0.0f;
    for (int64_t a = 0; a < g.actions; ++a) {
      const float log_std = std::min(std::max(raw[a], g.log_std_min), g.log_std_max);
      const float u = mean[a] + std::exp(log_std) * eps[a];
      const float t = std::exp(-2.0f * std::fabs(u));
      // log(1 - tanh(u)^2) = 2 (log 2 - |u| - log(1 + exp(-2 |u|))): exact for large |u|.
      const float log_squash = 2.0f * (kLog2 - std::fabs(u) - std::log1p(t));
      sum += -0.5f * eps[a] * eps[a] - log_std - kHalfLog2Pi - log_squash;
      action[b * action_row + a] = std::tanh(u);
    }
    log_prob[b] = sum;
  }
}

void tanh_gaussian_mode(const TanhGaussian& g, const float* output, float* action) {
  for (int64_t b = 0; b < g.rows; ++b) {
    for (int64_t a = 0; a < g.actions; ++a)
      action[b * g.actions + a] = std::tanh(output[2 * b * g.actions + a]);
  }
}

void tanh_gaussian_backward(const TanhGaussian& g, const float* output, const float* noise,
                            const float* action, int64_t action_row, const float* daction,
                            const float* dlog_prob, float* doutput) {
  for (int64_t b = 0; b < g.rows; ++b) {
    const float* raw = output + (2 * b + 1) * g.actions;
    float *dmean = doutput + 2 * b * g.actions, *dlog_std = dmean + g.actions;
    for (int64_t a = 0; a < g.actions; ++a) {
      const float y = action[b * action_row + a];
      // d log_prob / d u = 2 tanh(u), from the squashing term.
      const float du = daction[b * g.actions + a] * (1.0f - y * y) + dlog_prob[b] * 2.0f * y;
      const bool inside = raw[a] >= g.log_std_min && raw[a] <= g.log_std_max;
      dmean[a] = du;
      dlog_std[a] = inside ? du * std::exp(raw[a]) * noise[b * g.actions + a] - dlog_prob[b] : 0.0f;
    }
  }
}
