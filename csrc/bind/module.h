#pragma once

#include <pybind11/pybind11.h>

void bind_replay(pybind11::module_& m);
void bind_critic(pybind11::module_& m);
void bind_cuda(pybind11::module_& m);
