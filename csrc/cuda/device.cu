#include <dlfcn.h>

#include "cuda/device.h"
#include "cuda/launch.h"

namespace {

// Whether this process uses the device already. cudaSetDevice() would open a context there: some 500 MB of a
// GPU that belongs to somebody else's run.
bool has_context(int device) {
  using State = int (*)(int device, unsigned* flags, int* active);
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);  // the runtime has loaded it
  if (driver == nullptr) return false;
  const auto state = reinterpret_cast<State>(dlsym(driver, "cuDevicePrimaryCtxGetState"));
  unsigned flags = 0;
  int active = 0;
  const bool used = state != nullptr && state(device, &flags, &active) == 0 && active != 0;
  dlclose(driver);
  return used;
}

}  // namespace

OnDevice::OnDevice(int device) : device_(device) {
  cudaError_t error = cudaGetDevice(&before_);
  if (error == cudaSuccess && before_ != device) error = cudaSetDevice(device);
  if (error != cudaSuccess) throw CudaError("cuda:" + std::to_string(device), cudaGetErrorString(error));
}

OnDevice::~OnDevice() {
  if (before_ != device_ && has_context(before_)) cudaSetDevice(before_);
}
