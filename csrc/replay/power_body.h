#pragma once

#include <cstdint>
#include <cstring>

// The arithmetic of power.h, one number at a time, for the CPU and for CUDA: the same operations in the same
// order, so the same bits (contraction is off, CMakeLists.txt and cuda/nvcc.flags).

#ifdef __CUDACC__
#define MTRL_POWER inline __device__
#else
#include "cpu_features.h"
#define MTRL_POWER MTRL_BODY
#endif

template <class To, class From>
MTRL_POWER To bits_as(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// log2 of a positive normal double: exponent + 2 / ln 2 * atanh((m - 1) / (m + 1)), m in [sqrt(1/2),
// sqrt(2)).
MTRL_POWER double log2_of(double x) {
  constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCD;
  constexpr uint64_t kTwo52 = 0x4330000000000000;
  const uint64_t shifted = bits_as<uint64_t>(x) - kSqrtHalf + (uint64_t{1024} << 52);
  const double exponent = bits_as<double>((shifted >> 52) | kTwo52) - (0x1p52 + 1024);
  const double m = bits_as<double>((shifted & 0x000FFFFFFFFFFFFF) + kSqrtHalf);
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

// 2 ^ y: the nearest whole number as the exponent, the Taylor series of e^(ln 2 * rest) for the rest.
MTRL_POWER double exp2_of(double y) {
  y = y < -1100 ? -1100 : y;
  y = y > 1100 ? 1100 : y;
  constexpr double kRound = 0x1.8p52;
  const double shifted = y + kRound;
  const double whole = shifted - kRound;
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
  const auto scale = bits_as<double>((bits_as<uint64_t>(shifted) + 1023) << 52);
  double power = sum * scale;
  power = whole < -1021 ? 0.0 : power;
  return whole > 1022 ? bits_as<double>(uint64_t{0x7FF0000000000000}) : power;
}
