// Whether this build has CUDA kernels, and the submodule of those it has (csrc/bind/cuda).
#include "function.h"
#include "module.h"

namespace py = pybind11;

void bind_cuda(py::module_& m) {
  bind::def(
      m, "cuda_build",
      bind::Doc{
          "What the CUDA kernels were built with, {'version', 'architectures'}; None where they were not."},
      +[]() -> py::object {
#ifdef MTRL_CUDA_VERSION
        py::dict build;
        build["version"] = MTRL_CUDA_VERSION;
        build["architectures"] = MTRL_CUDA_ARCHITECTURES;
        return build;
#else
        return py::none();
#endif
      });
#ifdef MTRL_CUDA_VERSION
  py::module_ kernels = m.def_submodule("cuda", "The CUDA kernels, for CUDA tensors and a stream's handle.");
  bind_cuda_critic(kernels);
  bind_cuda_replay(kernels);
  bind_cublaslt(kernels);
#endif
}
