#include "module.h"

void bind_critic(pybind11::module_&) {}
