#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstring>
#include <stdexcept>

namespace {

// Numbers of cuBLASLt's interface that NVIDIA has kept since CUDA 11.4.
constexpr int kSuccess = 0, kNotSupported = 15;
constexpr int kFloat32 = 0;                             // a type of numbers
constexpr int kComputeFloat32 = 68, kComputeTf32 = 77;  // how they are multiplied
constexpr int32_t kTransposed = 1, kAsIs = 0;
constexpr uint32_t kReluBias = 6, kReluAuxBias = 134, kDreluBgrad = 152;  // epilogues
namespace operation_attribute {
constexpr int kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBias = 8, kBiasStride = 10, kAux = 11,
              kAuxLd = 12, kAuxStride = 13;
}
namespace layout_attribute {
constexpr int kBatch = 5, kStride = 6;
}
namespace preference_attribute {
constexpr int kWorkspace = 1, kAlignmentA = 5, kAlignmentD = 8;  // of A, B, C, D in a row
}
constexpr uint64_t kMostWorkspace = uint64_t{32} << 20;  // bytes
constexpr uint32_t kAlignment = 16;                      // bytes

// What a heuristic answers.
struct Answer {
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Answer) == 96, "the size of the library's own");

int64_t mask_bits(int64_t width) { return (width + 127) / 128 * 128; }

using Functions = CublasLt::Functions;

// One of the library's descriptors; what is set is read back, so that a library which keeps another size or
// meaning is noticed before it is used.
class Descriptor {
 public:
  using Set = int (*)(void*, int, const void*, size_t);
  using Get = int (*)(void*, int, void*, size_t, size_t*);
  Descriptor(const Functions& lt, Set set, Get get, int (*destroy)(void*))
      : lt_(lt), set_(set), get_(get), destroy_(destroy) {}
  ~Descriptor() {
    if (made_ != nullptr) destroy_(made_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void check(int status) const {
    if (status != kSuccess) throw CudaError("cuBLASLt's descriptors", lt_.status_name(status));
  }
  template <class T>
  void set(int attribute, T value) {
    check(set_(made_, attribute, &value, sizeof(T)));
    T kept{};
    size_t written = 0;
    check(get_(made_, attribute, &kept, sizeof(T), &written));
    if (written != sizeof(T) || kept != value)
      throw CudaError("cuBLASLt's descriptors",
                      "attribute " + std::to_string(attribute) + " reads back as another value");
  }
  void** place() { return &made_; }
  void* get() const { return made_; }

 private:
  const Functions& lt_;
  Set set_;
  Get get_;
  int (*destroy_)(void*);
  void* made_ = nullptr;
};

class Layout : public Descriptor {
 public:
  // Row-major [critics, rows, width] is, to the library, column-major [critics, width, rows].
  Layout(const Functions& lt, int64_t critics, int64_t rows, int64_t width)
      : Descriptor(lt, lt.layout_set, lt.layout_get, lt.layout_destroy) {
    check(lt.layout_create(place(), kFloat32, static_cast<uint64_t>(width), static_cast<uint64_t>(rows),
                           width));
    set(layout_attribute::kBatch, static_cast<int32_t>(critics));
    set(layout_attribute::kStride, int64_t{rows * width});
  }
};

// D = op(A) B of column-major matrices is D^T = B^T op(A)^T of row-major ones: A is the kernel, B the rows.
struct Operation : Descriptor {
  Operation(const Functions& lt, const LtPlan& p, const void* bias, const void* mask)
      : Descriptor(lt, lt.operation_set, lt.operation_get, lt.operation_destroy),
        kernel(lt, p.critics, p.width, p.width),
        rows(lt, p.critics, p.rows, p.width) {
    namespace attribute = operation_attribute;
    const bool backward = p.product == LtProduct::kBackward;
    check(lt.operation_create(place(), p.tf32 ? kComputeTf32 : kComputeFloat32, kFloat32));
    set(attribute::kTransposeA, backward ? kTransposed : kAsIs);
    set(attribute::kTransposeB, kAsIs);
    set(attribute::kEpilogue, backward                               ? kDreluBgrad
                              : p.product == LtProduct::kForwardMask ? kReluAuxBias
                                                                     : kReluBias);
    set(attribute::kBias, bias);
    set(attribute::kBiasStride, p.width);
    if (p.product == LtProduct::kForward) return;
    set(attribute::kAux, mask);
    set(attribute::kAuxLd, mask_bits(p.width));
    set(attribute::kAuxStride, p.rows * mask_bits(p.width));
  }
  Layout kernel, rows;  // of the factors; the result's is the rows' own
};

}  // namespace

int64_t lt_mask_bytes(int64_t critics, int64_t rows, int64_t width) {
  return critics * rows * mask_bits(width) / 8;
}

CublasLt::CublasLt(const std::vector<std::string>& names) {
  void* library = nullptr;
  for (const int only_loaded : {RTLD_NOLOAD, 0})
    for (const std::string& name : names)
      if (library == nullptr) library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | only_loaded);
  const auto failed = [] {
    const char* reason = dlerror();
    return std::runtime_error(reason == nullptr ? "no name of a library was given" : reason);
  };
  if (library == nullptr) throw failed();
  const auto find = [&](auto& function, const char* name) {
    void* address = dlsym(library, name);
    if (address == nullptr) throw failed();
    std::memcpy(&function, &address, sizeof(address));
  };
  find(lt_.version, "cublasLtGetVersion");
  find(lt_.status_name, "cublasLtGetStatusName");
  find(lt_.create, "cublasLtCreate");
  find(lt_.operation_create, "cublasLtMatmulDescCreate");
  find(lt_.operation_destroy, "cublasLtMatmulDescDestroy");
  find(lt_.operation_set, "cublasLtMatmulDescSetAttribute");
  find(lt_.operation_get, "cublasLtMatmulDescGetAttribute");
  find(lt_.layout_create, "cublasLtMatrixLayoutCreate");
  find(lt_.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(lt_.layout_set, "cublasLtMatrixLayoutSetAttribute");
  find(lt_.layout_get, "cublasLtMatrixLayoutGetAttribute");
  find(lt_.preference_create, "cublasLtMatmulPreferenceCreate");
  find(lt_.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(lt_.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(lt_.preference_get, "cublasLtMatmulPreferenceGetAttribute");
  find(lt_.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(lt_.matmul, "cublasLtMatmul");
}

size_t CublasLt::version() const { return lt_.version(); }

LtPlan CublasLt::choose(LtProduct product, int64_t critics, int64_t rows, int64_t width, bool tf32) {
  if (width % 4 != 0) throw std::invalid_argument("width " + std::to_string(width) + " is no multiple of 4");
  LtPlan plan{product, critics, rows, width, tf32, {}, 0};
  int status = handle_ == nullptr ? lt_.create(&handle_) : kSuccess;
  if (status != kSuccess) throw CudaError("cuBLASLt does not open", lt_.status_name(status));
  // The question's pointers are never followed; they say how the later ones will be aligned.
  const auto* aligned = reinterpret_cast<const void*>(uintptr_t{kAlignment});
  const Operation operation(lt_, plan, aligned, aligned);
  Descriptor preference(lt_, lt_.preference_set, lt_.preference_get, lt_.preference_destroy);
  preference.check(lt_.preference_create(preference.place()));
  preference.set(preference_attribute::kWorkspace, kMostWorkspace);
  for (int matrix = preference_attribute::kAlignmentA; matrix <= preference_attribute::kAlignmentD; ++matrix)
    preference.set(matrix, kAlignment);
  Answer answer{};
  int found = 0;
  void* const on_rows = operation.rows.get();
  status = lt_.heuristic(handle_, operation.get(), operation.kernel.get(), on_rows, on_rows, on_rows,
                         preference.get(), 1, &answer, &found);
  if (status == kSuccess) status = found == 0 ? kNotSupported : answer.state;
  if (status != kSuccess) throw CudaError("cuBLASLt has no way to make the product", lt_.status_name(status));
  std::memcpy(plan.algorithm, answer.algorithm, sizeof(plan.algorithm));
  plan.workspace = answer.workspace;
  return plan;
}

void CublasLt::run(const LtPlan& plan, const LtTensors& t, cudaStream_t stream) const {
  const Operation operation(lt_, plan, t.bias, t.mask);
  const float one = 1.0f, zero = 0.0f;
  void* const on_rows = operation.rows.get();
  const int status =
      lt_.matmul(handle_, operation.get(), &one, t.kernel, operation.kernel.get(), t.left, on_rows, &zero,
                 t.out, on_rows, t.out, on_rows, plan.algorithm, t.workspace, plan.workspace, stream);
  if (status != kSuccess) throw CudaError("cuBLASLt's product", lt_.status_name(status));
}
