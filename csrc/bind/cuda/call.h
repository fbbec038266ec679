#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "bind/arrays.h"
#include "cuda/device.h"
#include "cuda/stream.h"

namespace cuda_bindings {

namespace py = pybind11;

using Shape = std::initializer_list<int64_t>;

#ifdef MTRL_CUDA_ON_HOST  // a build for tests: kernels run on the host (tests/csrc/cuda_on_host.h)
constexpr bool kOnHost = true;
#else
constexpr bool kOnHost = false;
#endif

// The tensors of one call: all on one device.
class Call {
 public:
  explicit Call(uintptr_t stream) : stream_(reinterpret_cast<cudaStream_t>(stream)) {}

  arrays::Array view(py::handle object, const char* name, int axes) {
    const arrays::Array array = arrays::view(object, name);
    if (array.device < 0 && !kOnHost)
      throw py::value_error(std::string(name) + " is on the CPU; expected a CUDA device: pass .cuda()");
    if (device_ >= 0 && array.device != device_)
      throw py::value_error(std::string(name) + " is on cuda:" + std::to_string(array.device) +
                            ", others are on cuda:" + std::to_string(device_));
    device_ = array.device;
    if (array.ndim != axes)
      throw py::value_error(std::string(name) + " has shape " + arrays::shape_text(array.shape, array.ndim) +
                            "; expected " + std::to_string(axes) + " axes");
    return array;
  }
  template <class T>
  T* get(py::handle object, const char* name, Shape shape) {
    const arrays::Array array = view(object, name, static_cast<int>(shape.size()));
    arrays::check_shape(array, name, shape);
    return arrays::typed<T>(array, name);
  }
  template <class T>
  T* maybe(py::handle object, const char* name, Shape shape) {
    return object.is_none() ? nullptr : get<T>(object, name, shape);
  }
  // At least `bytes` long.
  void* workspace(py::handle object, int64_t bytes) {
    const arrays::Array array = view(object, "workspace", 1);
    arrays::typed<uint8_t>(array, "workspace");
    if (array.shape[0] < bytes)
      throw py::value_error("workspace has " + std::to_string(array.shape[0]) + " bytes; " +
                            std::to_string(bytes) + " are needed");
    return array.data;
  }
  template <class Kernel>
  void run(Kernel kernel) {
    const py::gil_scoped_release unlocked;
    const OnDevice device(device_);
    kernel(stream_);
  }

 private:
  cudaStream_t stream_;
  int device_ = -1;
};

}  // namespace cuda_bindings
