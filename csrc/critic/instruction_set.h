#pragma once

#include "cpu_features.h"

// Defines `void name parameters` from `name_body parameters`, run on the best instruction set that the
// machine has.
#define MTRL_BEST(name, parameters, arguments) \
  MTRL_DISPATCH(name, parameters, arguments)   \
  void name parameters { name##_for(best_instruction_set()) arguments; }
