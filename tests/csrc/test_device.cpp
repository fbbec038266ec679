// OnDevice over a stand-in for CUDA's runtime and driver, which notes where a context was opened.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "cuda/stream.h"

#define MTRL_CUDA_LAUNCH_H  // what follows stands for cuda_runtime.h

namespace {

enum cudaError_t { cudaSuccess, cudaErrorInvalidDevice };
int current = 0;
std::set<int> contexts;
const int devices = 2;

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices) return cudaErrorInvalidDevice;
  contexts.insert(current = device);
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "invalid device ordinal"; }

int state_of_context(int device, unsigned* flags, int* active) {
  *flags = 0;
  *active = contexts.count(device) != 0;
  return 0;
}
int open_libraries = 0;
void* open_library(const char* name, int) {
  EXPECT_STREQ(name, "libcuda.so.1");
  ++open_libraries;
  return &open_libraries;
}
void* find_symbol(void*, const char* name) {
  EXPECT_STREQ(name, "cuDevicePrimaryCtxGetState");
  return reinterpret_cast<void*>(&state_of_context);
}
int close_library(void*) { return --open_libraries; }

}  // namespace

#define dlopen open_library
#define dlsym find_symbol
#define dlclose close_library
#include "cuda/device.cu"

namespace {

struct Device : testing::Test {
  void SetUp() override {
    current = 0;
    contexts.clear();
  }
};

TEST_F(Device, OpensNoContextOnADeviceThatNobodyUses) {
  for (int call = 0; call < 2; ++call) {
    const OnDevice on(1);
    EXPECT_EQ(current, 1);
  }
  EXPECT_EQ(contexts, (std::set<int>{1}));
  EXPECT_EQ(open_libraries, 0);
}

TEST_F(Device, GoesBackToADeviceInUse) {
  cudaSetDevice(0);
  {
    const OnDevice on(1);
    EXPECT_EQ(current, 1);
  }
  EXPECT_EQ(current, 0);
}

TEST_F(Device, RefusesADeviceThatIsNotThere) {
  EXPECT_THROW(OnDevice on(2), CudaError);
  EXPECT_TRUE(contexts.empty());
}

}  // namespace
