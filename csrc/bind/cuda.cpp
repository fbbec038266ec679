#include "module.h"

namespace py = pybind11;

namespace {

py::object cuda_build() {
#ifdef MTRL_CUDA_VERSION
  py::dict build;
  build["version"] = MTRL_CUDA_VERSION;
  build["architectures"] = MTRL_CUDA_ARCHITECTURES;
  return build;
#else
  return py::none();
#endif
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.def("cuda_build", &cuda_build,
        "What the CUDA kernels were built with, {'version', 'architectures'}; None where they were not.");
}
