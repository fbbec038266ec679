#pragma once

#include <cstdint>

// Adam (Kingma & Ba 2015; decoupled weight decay as Loshchilov & Hutter 2019) with the joint clip before it
// and the Polyak average after it, over one flat vector.
struct AdamPolyak {
  double lr, beta1, beta2, eps, weight_decay;
  double clip;    // the gradient is scaled so that its norm is at most this; infinity leaves it alone
  double polyak;  // target += polyak * (value - target), after the step
  int64_t steps;  // this one included, so at least 1
};

// One step in place of value, mean and square [n] and, unless it is null, target [n]. Returns the gradient's
// norm before the clip. A gradient that is not finite makes the values not finite; nothing is hidden. Two
// passes over the gradient, one over everything else; the same bits on every instruction set.
double adam_polyak(const AdamPolyak& step, int64_t n, const float* gradient, float* mean, float* square,
                   float* value, float* target);

// Its two passes, for a caller that shares out chunks: the sum over chunks, in their order, of squared_norm
// gives the norm.
constexpr int64_t kAdamChunk = 32768;  // floats
double squared_norm(int64_t n, const float* gradient);
void adam_polyak_apply(const AdamPolyak& step, double norm, int64_t n, const float* gradient, float* mean,
                       float* square, float* value, float* target);
