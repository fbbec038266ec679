#include "replay/power.h"

#include "replay/power_body.h"

namespace {

MTRL_BODY void power_body(const double* x, int64_t n, double exponent, double* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double power = exp2_of(exponent * log2_of(x[i]));  // also where x is 0: no branch, so vectors
    out[i] = x[i] > 0 ? power : 0.0;
  }
}

MTRL_DISPATCH(power, (const double* x, int64_t n, double exponent, double* out), (x, n, exponent, out))

}  // namespace

void power(InstructionSet set, const double* x, int64_t n, double exponent, double* out) {
  power_for(set)(x, n, exponent, out);
}
