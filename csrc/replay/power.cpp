#include "replay/power.h"

#include "replay/power_body.h"

namespace {

MTRL_BODY void power_body(const double* x, int64_t n, double exponent, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = power_of(x[i], exponent);
}

MTRL_DISPATCH(power, (const double* x, int64_t n, double exponent, double* out), (x, n, exponent, out))

}  // namespace

void power(InstructionSet set, const double* x, int64_t n, double exponent, double* out) {
  power_for(set)(x, n, exponent, out);
}
