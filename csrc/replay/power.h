#pragma once

#include <cstdint>

#include "cpu_features.h"

// out[i] = x[i] ^ exponent, relative error below 1e-11; 0 ^ exponent is 0 for every exponent, 0 included.
// Needs x[i] >= 0 and finite. The same bits on every machine and instruction set, which a C library's pow
// does not promise. Out of the range of doubles: 0 below, infinity above. x may be out.
void power(InstructionSet set, const double* x, int64_t n, double exponent, double* out);
