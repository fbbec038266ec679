#pragma once

#include <cstdint>

#include "cuda/launch.h"

// power.h on the GPU: the same operations in the same order, so the same bits (contraction is off,
// cuda/nvcc.flags).

inline __device__ double power_log2(double x) {
  constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCD;
  constexpr uint64_t kTwo52 = 0x4330000000000000;
  const uint64_t shifted =
      static_cast<uint64_t>(__double_as_longlong(x)) - kSqrtHalf + (uint64_t{1024} << 52);
  const double exponent =
      __longlong_as_double(static_cast<int64_t>((shifted >> 52) | kTwo52)) - (0x1p52 + 1024);
  const double m = __longlong_as_double(static_cast<int64_t>((shifted & 0x000FFFFFFFFFFFFF) + kSqrtHalf));
  const double t = (m - 1) / (m + 1), s = t * t;
  double sum = 1.0 / 17;
  sum = sum * s + 1.0 / 15;
  sum = sum * s + 1.0 / 13;
  sum = sum * s + 1.0 / 11;
  sum = sum * s + 1.0 / 9;
  sum = sum * s + 1.0 / 7;
  sum = sum * s + 1.0 / 5;
  sum = sum * s + 1.0 / 3;
  sum = sum * s + 1.0;
  return exponent + 2.8853900817779268 * t * sum;
}

inline __device__ double power_exp2(double y) {
  y = y < -1100 ? -1100 : y;
  y = y > 1100 ? 1100 : y;
  const double shifted = y + 0x1.8p52;
  const double whole = shifted - 0x1.8p52;
  const double z = (y - whole) * 0.69314718055994531;
  double sum = 1.0 / 39916800;
  sum = sum * z + 1.0 / 3628800;
  sum = sum * z + 1.0 / 362880;
  sum = sum * z + 1.0 / 40320;
  sum = sum * z + 1.0 / 5040;
  sum = sum * z + 1.0 / 720;
  sum = sum * z + 1.0 / 120;
  sum = sum * z + 1.0 / 24;
  sum = sum * z + 1.0 / 6;
  sum = sum * z + 0.5;
  sum = sum * z + 1.0;
  sum = sum * z + 1.0;
  const uint64_t scale = (static_cast<uint64_t>(__double_as_longlong(shifted)) + 1023) << 52;
  double power = sum * __longlong_as_double(static_cast<int64_t>(scale));
  power = whole < -1021 ? 0.0 : power;
  return whole > 1022 ? __longlong_as_double(0x7FF0000000000000) : power;
}

inline __device__ double power(double x, double exponent) {
  return x > 0 ? power_exp2(exponent * power_log2(x)) : 0.0;
}
