// A shared library for tests, in the place of NVIDIA's libcublasLt: the functions that csrc/cuda/cublaslt.cpp
// takes, with products and epilogues computed on the host. Its numbers and rules are written from NVIDIA's
// documentation, not from our header. It is stricter than the real one: whatever was not set, has another
// size, does not match or is not aligned is refused. A ReLU makes 0 of NaN, as fmax does: the worse of what
// the real one may do. MTRL_CUBLASLT_FAULT plants a fault: see `faulty`.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <vector>

namespace {

enum Status { kSuccess = 0, kNotInitialized = 1, kInvalid = 7, kNotSupported = 15 };
enum Epilogue { kReluBias = 2 | 4, kReluAuxBias = 2 | 128 | 4, kDreluBgrad = 8 | 128 | 16 };
enum { kCompute32F = 68, kComputeTf32 = 77 };

bool faulty(const char* name) {
  const char* planted = std::getenv("MTRL_CUBLASLT_FAULT");
  return planted != nullptr && std::strcmp(planted, name) == 0;
}

// Attribute -> size in bytes, of the three kinds of descriptors.
using Sizes = std::map<int, size_t>;
const Sizes kOperation{{3, 4}, {4, 4}, {7, 4}, {8, 8}, {10, 8}, {11, 8}, {12, 8}, {13, 8}};
const Sizes kLayout{{5, 4}, {6, 8}};
const Sizes kPreference{{1, 8}, {5, 4}, {6, 4}, {7, 4}, {8, 4}};

struct Descriptor {
  explicit Descriptor(const Sizes& of) : sizes(of) {}
  const Sizes& sizes;
  std::map<int, int64_t> value;  // of what was set
  int compute = 0;
  int64_t rows = 0, cols = 0, ld = 0;

  bool has(std::initializer_list<int> attributes) const {
    for (const int attribute : attributes)
      if (value.count(attribute) == 0) return false;
    return true;
  }
};

int set(void* descriptor, int attribute, const void* value, size_t size) {
  auto& d = *static_cast<Descriptor*>(descriptor);
  const auto known = d.sizes.find(attribute);
  if (value == nullptr || known == d.sizes.end() || known->second != size) return kInvalid;
  int64_t kept = 0;
  std::memcpy(&kept, value, size);
  d.value[attribute] = faulty("forgets") ? kept + 1 : kept;
  return kSuccess;
}

int get(void* descriptor, int attribute, void* value, size_t size, size_t* written) {
  auto& d = *static_cast<Descriptor*>(descriptor);
  if (!d.has({attribute}) || d.sizes.at(attribute) != size) return kInvalid;
  std::memcpy(value, &d.value.at(attribute), size);
  *written = size;
  return kSuccess;
}

template <class T>
int destroy(void* made) {
  delete static_cast<T*>(made);
  return kSuccess;
}

bool aligned(int64_t address) { return address != 0 && address % 16 == 0; }

bool valid_layout(const Descriptor& l, int64_t batch) {
  return &l.sizes == &kLayout && l.has({5, 6}) && l.ld >= l.rows && l.value.at(5) == batch &&
         l.value.at(6) >= l.ld * l.cols && l.ld % 4 == 0 && l.value.at(6) % 4 == 0;
}

// Whether the operation and its layouts fit together.
bool valid(const Descriptor& o, const Descriptor& a, const Descriptor& b, const Descriptor& c,
           const Descriptor& d) {
  if (&o.sizes != &kOperation || (o.compute != kCompute32F && o.compute != kComputeTf32)) return false;
  if (!o.has({3, 4, 7, 8, 10}) || o.value.at(4) != 0 || !d.has({5})) return false;
  const int64_t batch = d.value.at(5), epilogue = o.value.at(7);
  for (const Descriptor* layout : {&a, &b, &c, &d})
    if (!valid_layout(*layout, batch)) return false;
  const bool turned = o.value.at(3) == 1;
  const int64_t m = turned ? a.cols : a.rows, k = turned ? a.rows : a.cols;
  if (b.rows != k || d.rows != m || d.cols != b.cols || c.rows != m || c.cols != d.cols) return false;
  if (!aligned(o.value.at(8)) || o.value.at(10) < m || o.value.at(10) % 4 != 0) return false;
  if (epilogue == kReluBias) return !o.has({11}) && !o.has({12}) && !o.has({13});
  if (epilogue != kReluAuxBias && epilogue != kDreluBgrad) return false;
  return o.has({11, 12, 13}) && aligned(o.value.at(11)) && o.value.at(12) >= m && o.value.at(12) % 128 == 0 &&
         o.value.at(13) >= o.value.at(12) * d.cols && o.value.at(13) % 128 == 0;
}

// What an algorithm is made for.
uint64_t fingerprint(const Descriptor& o, const Descriptor& d) {
  uint64_t hash = static_cast<uint64_t>(o.compute);
  for (const int64_t part : {o.value.at(3), o.value.at(7), d.rows, d.cols, d.value.at(5)})
    hash = hash * 1000003u + static_cast<uint64_t>(part);
  return hash;
}

constexpr size_t kWorkspace = 512;

float rounded(float x, bool tf32) {
  if (!tf32) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits = (bits + 0x1000u) & ~0x1fffu;  // 10 bits of mantissa
  std::memcpy(&x, &bits, sizeof(bits));
  return x;
}

struct Bits {
  uint8_t* byte;
  bool at(int64_t i) const { return (byte[i / 8] >> (i % 8) & 1) != 0; }
  void set(int64_t i, bool on) const {
    const auto bit = static_cast<uint8_t>(1 << (i % 8));
    byte[i / 8] = static_cast<uint8_t>(on ? byte[i / 8] | bit : byte[i / 8] & ~bit);
  }
};

struct Answer {  // 96 bytes
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

int handle;

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return 123456; }

const char* cublasLtGetStatusName(int status) {
  switch (status) {
    case kNotInitialized:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case kInvalid:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case kNotSupported:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "CUBLAS_STATUS_?";
  }
}

int cublasLtCreate(void** made) {
  if (faulty("no device")) return kNotInitialized;
  *made = &handle;
  return kSuccess;
}

int cublasLtMatmulDescCreate(void** made, int compute, int scale) {
  auto* d = new Descriptor(kOperation);
  d->compute = compute;
  *made = d;
  return scale == 0 ? kSuccess : kInvalid;
}
int cublasLtMatmulDescDestroy(void* d) { return destroy<Descriptor>(d); }
int cublasLtMatmulDescSetAttribute(void* d, int a, const void* v, size_t n) { return set(d, a, v, n); }
int cublasLtMatmulDescGetAttribute(void* d, int a, void* v, size_t n, size_t* w) {
  return get(d, a, v, n, w);
}

int cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  auto* d = new Descriptor(kLayout);
  d->rows = static_cast<int64_t>(rows), d->cols = static_cast<int64_t>(cols), d->ld = ld;
  *made = d;
  return type == 0 ? kSuccess : kInvalid;
}
int cublasLtMatrixLayoutDestroy(void* d) { return destroy<Descriptor>(d); }
int cublasLtMatrixLayoutSetAttribute(void* d, int a, const void* v, size_t n) { return set(d, a, v, n); }
int cublasLtMatrixLayoutGetAttribute(void* d, int a, void* v, size_t n, size_t* w) {
  return get(d, a, v, n, w);
}

int cublasLtMatmulPreferenceCreate(void** made) {
  *made = new Descriptor(kPreference);
  return kSuccess;
}
int cublasLtMatmulPreferenceDestroy(void* d) { return destroy<Descriptor>(d); }
int cublasLtMatmulPreferenceSetAttribute(void* d, int a, const void* v, size_t n) { return set(d, a, v, n); }
int cublasLtMatmulPreferenceGetAttribute(void* d, int a, void* v, size_t n, size_t* w) {
  return get(d, a, v, n, w);
}

int cublasLtMatmulAlgoGetHeuristic(void* lt, void* operation, void* a, void* b, void* c, void* d,
                                   void* preference, int wanted, Answer* answer, int* found) {
  if (lt != &handle) return kNotInitialized;
  const auto& o = *static_cast<Descriptor*>(operation);
  const auto& p = *static_cast<Descriptor*>(preference);
  const auto& out = *static_cast<Descriptor*>(d);
  *found = 0;
  if (wanted < 1 || &p.sizes != &kPreference || !p.has({1, 5, 6, 7, 8}) ||
      p.value.at(1) < int64_t{kWorkspace} ||
      !valid(o, *static_cast<Descriptor*>(a), *static_cast<Descriptor*>(b), *static_cast<Descriptor*>(c),
             out))
    return kInvalid;
  if (faulty("no algorithm")) return kNotSupported;
  if (faulty("none found")) return kSuccess;
  *answer = Answer{{fingerprint(o, out)}, kWorkspace, kSuccess, 1.0f, {}};
  *found = 1;
  return kSuccess;
}

int cublasLtMatmul(void* lt, void* operation, const void* alpha, const void* a_numbers, void* a_layout,
                   const void* b_numbers, void* b_layout, const void* beta, const void* c_numbers,
                   void* c_layout, void* d_numbers, void* d_layout, const uint64_t* algorithm,
                   void* workspace, size_t bytes, void* /*stream*/) {
  if (lt != &handle) return kNotInitialized;
  if (faulty("refuses")) return kInvalid;
  const auto &o = *static_cast<Descriptor*>(operation), &a = *static_cast<Descriptor*>(a_layout),
             &b = *static_cast<Descriptor*>(b_layout), &d = *static_cast<Descriptor*>(d_layout);
  if (!valid(o, a, b, *static_cast<Descriptor*>(c_layout), d) || algorithm[0] != fingerprint(o, d))
    return kInvalid;
  for (const void* numbers : {a_numbers, b_numbers, c_numbers, static_cast<const void*>(d_numbers)})
    if (!aligned(static_cast<int64_t>(reinterpret_cast<uintptr_t>(numbers)))) return kInvalid;
  if (*static_cast<const float*>(alpha) != 1.0f || *static_cast<const float*>(beta) != 0.0f ||
      c_numbers != d_numbers || workspace == nullptr || bytes < kWorkspace)
    return kInvalid;
  std::memset(workspace, 0xff, kWorkspace);  // NaN

  const bool turned = o.value.at(3) == 1, tf32 = (o.compute == kComputeTf32) != faulty("rounds");
  const int64_t epilogue = o.value.at(7), k = turned ? a.rows : a.cols;
  const Bits bits{epilogue == kReluBias ? nullptr : reinterpret_cast<uint8_t*>(o.value.at(11))};
  for (int64_t e = 0; e < d.value.at(5); ++e) {
    const float* left = static_cast<const float*>(a_numbers) + e * a.value.at(6);
    const float* right = static_cast<const float*>(b_numbers) + e * b.value.at(6);
    float* out = static_cast<float*>(d_numbers) + e * d.value.at(6);
    float* bias = reinterpret_cast<float*>(o.value.at(8)) + (faulty("one bias") ? 0 : e * o.value.at(10));
    std::vector<double> sums(static_cast<size_t>(d.rows));
    for (int64_t col = 0; col < d.cols; ++col)
      for (int64_t row = 0; row < d.rows; ++row) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i)
          sum += static_cast<double>(rounded(turned ? left[i + row * a.ld] : left[row + i * a.ld], tf32)) *
                 static_cast<double>(rounded(right[i + col * b.ld], tf32));
        const int64_t bit = epilogue == kReluBias ? 0 : e * o.value.at(13) + col * o.value.at(12) + row;
        auto value = static_cast<float>(sum);
        if (epilogue == kDreluBgrad) {
          value = bits.at(bit) != faulty("other mask") ? value : 0.0f;
          sums[static_cast<size_t>(row)] += static_cast<double>(value);
        } else {
          value = std::fmax(value + bias[row], 0.0f);
          if (epilogue == kReluAuxBias) bits.set(bit, value > 0.0f);
        }
        out[row + col * d.ld] = value;
      }
    if (epilogue == kDreluBgrad && !faulty("no sums"))
      for (int64_t row = 0; row < d.rows; ++row)
        bias[row] = static_cast<float>(sums[static_cast<size_t>(row)]);
  }
  return kSuccess;
}

}  // extern "C"
