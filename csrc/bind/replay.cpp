#include "module.h"

void bind_replay(pybind11::module_&) {}
