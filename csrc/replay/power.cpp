#include "replay/power.h"

#include <cstring>

namespace {

template <class To, class From>
MTRL_BODY To bits_as(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// log2 of a positive normal double: exponent + 2 / ln 2 * atanh((m - 1) / (m + 1)), m in [sqrt(1/2),
// sqrt(2)).
MTRL_BODY double log2_of(double x) {
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
MTRL_BODY double exp2_of(double y) {
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

MTRL_BODY void power_body(const double* x, int64_t n, double exponent, double* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double power = exp2_of(exponent * log2_of(x[i]));
    out[i] = x[i] > 0 ? power : 0.0;
  }
}

MTRL_DISPATCH(power, (const double* x, int64_t n, double exponent, double* out), (x, n, exponent, out))

}  // namespace

void power(InstructionSet set, const double* x, int64_t n, double exponent, double* out) {
  power_for(set)(x, n, exponent, out);
}
