#pragma once

#include <cstdint>

// A diagonal Gaussian squashed by tanh (Haarnoja et al. 2018, appendix C), for rows of `actions` numbers.
struct TanhGaussian {
  int64_t rows, actions;
  float log_std_min, log_std_max;
};

// output [rows, 2 actions] holds means, then log standard deviations, which are clipped; noise [rows,
// actions] is standard normal. Writes the actions, rows `action_row` floats apart, and their log-densities
// [rows].
void tanh_gaussian_sample(const TanhGaussian& g, const float* output, const float* noise, float* action,
                          int64_t action_row, float* log_prob);

// tanh of the means, [rows, actions].
void tanh_gaussian_mode(const TanhGaussian& g, const float* output, float* action);

// doutput [rows, 2 actions] from the gradients daction [rows, actions] and dlog_prob [rows]. A clipped log
// standard deviation has no gradient. action is what tanh_gaussian_sample wrote.
void tanh_gaussian_backward(const TanhGaussian& g, const float* output, const float* noise,
                            const float* action, int64_t action_row, const float* daction,
                            const float* dlog_prob, float* doutput);
