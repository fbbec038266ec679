#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/stream.h"

// The hidden layers of an ensemble above the first, products and what follows them in one launch, by NVIDIA's
// cuBLASLt. The library is looked for at run time: nothing links it and none of its headers is needed to
// build. E critics, B rows, W width (inputs and outputs); float32, row-major and dense. Owns no tensor.
enum class LtProduct {
  kForward,      // y [E, B, W] = max(0, x [E, B, W] kernel [E, W, W] + bias [E, W])
  kForwardMask,  // and one bit for each number of y: whether a gradient passes
  kBackward,  // dx [E, B, W] = dz [E, B, W] kernel^T where the bit of x is set, else 0; dbias = its sums over
              // B
};

// What one product of one shape is made with. The words are the library's own.
struct LtPlan {
  LtProduct product;
  int64_t critics, rows, width;
  bool tf32;
  uint64_t algorithm[8];
  size_t workspace;  // bytes
};

// Every pointer is a multiple of 16, `workspace` of 256. A gradient's sums are written to `bias`.
struct LtTensors {
  const float* left;  // x or dz
  const float* kernel;
  float* bias;
  void* mask;  // lt_mask_bytes
  float* out;
  void* workspace;
};

// Bits of a row start at multiples of 128; what they mean is between the library's two products.
int64_t lt_mask_bytes(int64_t critics, int64_t rows, int64_t width);

class CublasLt {
 public:
  // The first of these shared libraries that this process has loaded already, else the first that it can
  // load, which stays. Throws std::runtime_error, with the loader's words, where there is none or one without
  // a function needed.
  explicit CublasLt(const std::vector<std::string>& names);
  size_t version() const;

  // Asks the library how to make a product on the calling thread's device, with up to 32 MiB of workspace.
  // The first call opens the library there; an object serves one device. Not for a stream that is being
  // captured. Throws std::invalid_argument for a width that is no multiple of 4, CudaError with the library's
  // word where it has no way.
  LtPlan choose(LtProduct product, int64_t critics, int64_t rows, int64_t width, bool tf32);

  // Starts the product on `stream` and returns at once. What is NaN before a ReLU may be 0 after it: the
  // library does not say. Throws CudaError where it refuses.
  void run(const LtPlan& plan, const LtTensors& tensors, cudaStream_t stream) const;

  // The library's functions, as far as they are used.
  struct Functions {
    size_t (*version)();
    const char* (*status_name)(int);
    int (*create)(void** handle);
    int (*operation_create)(void** operation, int compute, int scale);
    int (*operation_destroy)(void* operation);
    int (*operation_set)(void* operation, int attribute, const void* value, size_t size);
    int (*operation_get)(void* operation, int attribute, void* value, size_t size, size_t* written);
    int (*layout_create)(void** layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_destroy)(void* layout);
    int (*layout_set)(void* layout, int attribute, const void* value, size_t size);
    int (*layout_get)(void* layout, int attribute, void* value, size_t size, size_t* written);
    int (*preference_create)(void** preference);
    int (*preference_destroy)(void* preference);
    int (*preference_set)(void* preference, int attribute, const void* value, size_t size);
    int (*preference_get)(void* preference, int attribute, void* value, size_t size, size_t* written);
    int (*heuristic)(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                     int wanted, void* results, int* found);
    int (*matmul)(void* handle, void* operation, const void* alpha, const void* a, void* a_layout,
                  const void* b, void* b_layout, const void* beta, const void* c, void* c_layout, void* d,
                  void* d_layout, const void* algorithm, void* workspace, size_t bytes, cudaStream_t stream);
  };

 private:
  Functions lt_{};
  void* handle_ = nullptr;  // never destroyed: at the process's end the driver may be gone first
};
