// The Python module `cuda_on_host`, for tests alone: the CUDA kernels' own binding over kernels that run on
// the host (cuda_on_host.h), so that what stands above them in Python runs on CPU tensors.
#define MTRL_CUDA_VERSION "none"
#define MTRL_CUDA_ARCHITECTURES "host"
#include "bind/cuda.cpp"
#include "cuda/device.h"
#include "cuda_on_host.h"

OnDevice::OnDevice(int) {}
OnDevice::~OnDevice() {}

PYBIND11_MODULE(cuda_on_host, m) {
  bind_cuda(m);
  auto kernels = m.attr("cuda").cast<py::module_>();
  bind::def(kernels, "launches", +[] { return cuda_on_host::launches; });
}
