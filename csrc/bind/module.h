#pragma once

#include <pybind11/pybind11.h>

void bind_replay(pybind11::module_& m);
void bind_critic(pybind11::module_& m);
void bind_sac_update(pybind11::module_& m);
void bind_cuda(pybind11::module_& m);

// Into the submodule `cuda`, in builds that have it.
void bind_cuda_critic(pybind11::module_& m);
void bind_cuda_replay(pybind11::module_& m);
void bind_cublaslt(pybind11::module_& m);
