#include "critic/matmul.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

constexpr int kMaxRows = 14;        // of any kernel's tile
constexpr int64_t kInner = 512;     // steps before a tile is written back: a packed panel stays in cache
constexpr int64_t kTall = 256;      // the same where both matrices are read in place
constexpr int64_t kStrip = 16;      // rows of a panel that are transposed together
constexpr int64_t kSameSets = 128;  // rows a multiple of so many floats apart share a few cache sets

using Tile = void (*)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, int, bool);

struct Kernel {
  const char* name;
  int lanes, rows;
  void (*copy_panels)(int64_t inner, int64_t cols, const float* b, int64_t b_row, float* into);
  Tile tile[2][2][kMaxRows];  // [transposed][vectors - 1][rows - 1]
};

// Whole panels, row by row through all of them: b is read as it lies, in copies of a size that the compiler
// knows.
template <int wide>
void copy_panels(int64_t inner, int64_t cols, const float* b, int64_t b_row, float* into) {
  for (int64_t p = 0; p < inner; ++p) {
    for (int64_t j = 0; j < cols; j += wide) {
      std::memcpy(into + j * inner + p * wide, b + p * b_row + j, wide * sizeof(float));
    }
  }
}

namespace portable {
#define TARGET
#define LANES 4
#define ROWS 6
typedef float Vector __attribute__((vector_size(16)));
#define VECTOR Vector
#define ZERO() (Vector{})
#define SPLAT(x) (Vector{} + (x))
#if defined(__ARM_NEON)
#define FMA(a, b, sum) ((Vector)vfmaq_f32((float32x4_t)(sum), (float32x4_t)(a), (float32x4_t)(b)))
#else
#define FMA(a, b, sum) ((sum) + (a) * (b))
#endif
inline Vector load_first(const float* from, int count) {
  float lane[4] = {};
  std::memcpy(lane, from, count * sizeof(float));
  return Vector{lane[0], lane[1], lane[2], lane[3]};
}
inline void store_first(float* to, int count, Vector v) { std::memcpy(to, &v, count * sizeof(float)); }
#define LOAD(from) load_first(from, 4)
#define STORE(to, v) store_first(to, 4, v)
#define LOAD_FIRST(from, count) load_first(from, count)
#define STORE_FIRST(to, count, v) store_first(to, count, v)
#include "critic/matmul_kernel.inc"
constexpr Kernel kKernel = make_kernel("portable", std::make_integer_sequence<int, 6>());
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 6
#define VECTOR __m256
#define ZERO() _mm256_setzero_ps()
#define SPLAT(x) _mm256_set1_ps(x)
#define FMA(a, b, sum) _mm256_fmadd_ps(a, b, sum)
#define LOAD(from) _mm256_loadu_ps(from)
#define STORE(to, v) _mm256_storeu_ps(to, v)
#define MASK(count) _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define LOAD_FIRST(from, count) _mm256_maskload_ps(from, MASK(count))
#define STORE_FIRST(to, count, v) _mm256_maskstore_ps(to, MASK(count), v)
#include "critic/matmul_kernel.inc"
#undef MASK
constexpr Kernel kKernel = make_kernel("avx2", std::make_integer_sequence<int, 6>());
}  // namespace avx2

namespace avx512 {
#define TARGET __attribute__((target("avx512f")))
#define LANES 16
#define ROWS 14
#define VECTOR __m512
#define ZERO() _mm512_setzero_ps()
#define SPLAT(x) _mm512_set1_ps(x)
#define FMA(a, b, sum) _mm512_fmadd_ps(a, b, sum)
#define LOAD(from) _mm512_loadu_ps(from)
#define STORE(to, v) _mm512_storeu_ps(to, v)
#define MASK(count) static_cast<__mmask16>((1u << (count)) - 1)
#define LOAD_FIRST(from, count) _mm512_maskz_loadu_ps(MASK(count), from)
#define STORE_FIRST(to, count, v) _mm512_mask_storeu_ps(to, MASK(count), v)
#include "critic/matmul_kernel.inc"
#undef MASK
constexpr Kernel kKernel = make_kernel("avx512", std::make_integer_sequence<int, 14>());
}  // namespace avx512
#endif

constexpr Kernel kBlas{"blas", 1, 1, nullptr, {}};
std::atomic<Sgemm> offered{nullptr};

const Kernel* find_kernel(const char* name) {
  if (!std::strcmp(name, "blas")) return offered.load() ? &kBlas : nullptr;
#if defined(__x86_64__)
  if (!std::strcmp(name, "avx512")) return cpu_features().avx512 ? &avx512::kKernel : nullptr;
  if (!std::strcmp(name, "avx2")) return cpu_features().avx2 && cpu_features().fma ? &avx2::kKernel : nullptr;
#endif
  return !std::strcmp(name, "portable") ? &portable::kKernel : nullptr;
}

const Kernel* best_kernel() {
  for (const char* name : {"avx512", "avx2"}) {
    if (const Kernel* kernel = find_kernel(name)) return kernel;
  }
  return &portable::kKernel;
}

std::atomic<const Kernel*>& chosen() {
  static std::atomic<const Kernel*> kernel{best_kernel()};
  return kernel;
}

// A panel is two vectors wide; the last one is one vector wide where that is enough.
int panel_vectors(const Kernel& kernel, int64_t cols_left) { return cols_left > kernel.lanes ? 2 : 1; }

// Four lanes out of the eight of two vectors, by number.
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int Lanes __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Lanes{__VA_ARGS__})
#endif

// Four rows of b, `b_row` floats apart, become four columns of `into`.
void transpose_quad(const float* b, int64_t b_row, float* into, int64_t into_row) {
  typedef float Quad __attribute__((vector_size(16)));
  Quad row[4];
  for (int64_t i = 0; i < 4; ++i) std::memcpy(&row[i], b + i * b_row, sizeof(Quad));
  const Quad low[2] = {SHUFFLE(row[0], row[1], 0, 4, 1, 5), SHUFFLE(row[2], row[3], 0, 4, 1, 5)};
  const Quad high[2] = {SHUFFLE(row[0], row[1], 2, 6, 3, 7), SHUFFLE(row[2], row[3], 2, 6, 3, 7)};
  const Quad column[4] = {SHUFFLE(low[0], low[1], 0, 1, 4, 5), SHUFFLE(low[0], low[1], 2, 3, 6, 7),
                          SHUFFLE(high[0], high[1], 0, 1, 4, 5), SHUFFLE(high[0], high[1], 2, 3, 6, 7)};
  for (int64_t i = 0; i < 4; ++i) std::memcpy(into + i * into_row, &column[i], sizeof(Quad));
}

// One panel, of `cols` columns and zeros.
void pack_panel(int64_t inner, int64_t cols, int64_t wide, View b, float* into) {
  for (int64_t p = 0; cols < wide && p < inner; ++p) {
    std::fill(into + p * wide + cols, into + (p + 1) * wide, 0.0f);
  }
  if (b.col == 1) {
    for (int64_t p = 0; p < inner; ++p) std::copy_n(b.data + p * b.row, cols, into + p * wide);
    return;
  }
  for (int64_t first = 0; first < inner; first += kStrip) {
    const int64_t end = std::min(first + kStrip, inner);
    for (int64_t j = 0; j < cols; j += 4) {
      if (end - first == kStrip && cols - j >= 4) {
        for (int64_t p = first; p < end; p += 4) {
          transpose_quad(b.data + p + j * b.col, b.col, into + p * wide + j, wide);
        }
        continue;
      }
      for (int64_t k = j; k < std::min(j + 4, cols); ++k) {
        for (int64_t p = first; p < end; ++p) into[p * wide + k] = b.data[p + k * b.col];
      }
    }
  }
}

// c = a panel, or c += a panel: tiles one below the other.
void multiply_panel(const Kernel& kernel, bool transposed, int64_t rows, int64_t inner, int64_t cols,
                    const float* a, int64_t a_row, const float* panel, int vectors, int64_t panel_row,
                    float* c, int64_t c_row, bool add) {
  const int last = static_cast<int>(cols - (vectors - 1) * kernel.lanes);
  for (int64_t i = 0; i < rows; i += kernel.rows) {
    const int64_t height = std::min<int64_t>(kernel.rows, rows - i);
    kernel.tile[transposed][vectors - 1][height - 1](inner, a + (transposed ? i : i * a_row), a_row, panel,
                                                     panel_row, c + i * c_row, c_row, last, add);
  }
}

void multiply_packed(const Kernel& kernel, bool transposed, int64_t rows, const float* a, int64_t a_row,
                     const Packed& b, float* c, int64_t c_row, bool add) {
  const float* panel = b.data;
  for (int64_t p = 0; p < b.inner; p += kInner) {
    const int64_t steps = std::min(kInner, b.inner - p);
    for (int64_t j = 0; j < b.cols;) {
      const int vectors = panel_vectors(kernel, b.cols - j);
      const int64_t wide = vectors * kernel.lanes, cols = std::min(wide, b.cols - j);
      multiply_panel(kernel, transposed, rows, steps, cols, a + p * (transposed ? a_row : 1), a_row, panel,
                     vectors, wide, c + j, c_row, add || p > 0);
      panel += steps * wide;
      j += wide;
    }
  }
}

// Row-major c = a b is column-major c^T = b^T a^T. A stride that is never walked may be too short for BLAS.
void blas_matmul(bool transposed, int64_t rows, int64_t inner, int64_t cols, const float* a, int64_t a_row,
                 const float* b, int64_t b_row, float* c, int64_t c_row, bool add) {
  char plain = 'N', left = transposed ? 'T' : 'N';
  int m = static_cast<int>(cols), n = static_cast<int>(rows), k = static_cast<int>(inner);
  int a_step = static_cast<int>(std::max(a_row, transposed ? rows : inner));
  int b_step = static_cast<int>(std::max(b_row, cols)), c_step = static_cast<int>(std::max(c_row, cols));
  float one = 1.0f, beta = add ? 1.0f : 0.0f;
  offered.load()(&plain, &left, &m, &n, &k, &one, const_cast<float*>(b), &b_step, const_cast<float*>(a),
                 &a_step, &beta, c, &c_step);
}

}  // namespace

void offer_blas(Sgemm sgemm) { offered = sgemm; }

const char* matmul_kernel() { return chosen().load()->name; }

bool choose_matmul_kernel(const char* name) {
  const Kernel* kernel = find_kernel(name);
  if (kernel) chosen() = kernel;
  return kernel;
}

int64_t packed_size(int64_t inner, int64_t cols) {
  const int64_t lanes = chosen().load()->lanes;
  return inner * ((cols + lanes - 1) / lanes * lanes);
}

Packed pack(int64_t inner, int64_t cols, View b, float* into) {
  const Kernel& kernel = *chosen().load();
  if (&kernel == &kBlas) {
    pack_panel(inner, cols, cols, b, into);
    return {inner, cols, into};
  }
  float* to = into;
  for (int64_t p = 0; p < inner; p += kInner) {
    const int64_t steps = std::min(kInner, inner - p);
    const float* from = b.data + p * b.row;
    int64_t j = 0;
    if (b.col == 1) {
      j = cols / (2 * kernel.lanes) * 2 * kernel.lanes;
      kernel.copy_panels(steps, j, from, b.row, to);
      to += steps * j;
    }
    while (j < cols) {
      const int64_t wide = panel_vectors(kernel, cols - j) * kernel.lanes;
      pack_panel(steps, std::min(wide, cols - j), wide, {from + j * b.col, b.row, b.col}, to);
      to += steps * wide;
      j += wide;
    }
  }
  return {inner, cols, into};
}

void matmul(int64_t rows, const float* a, int64_t a_row, const Packed& b, float* c, int64_t c_row, bool add) {
  const Kernel& kernel = *chosen().load();
  if (&kernel == &kBlas)
    return blas_matmul(false, rows, b.inner, b.cols, a, a_row, b.data, b.cols, c, c_row, add);
  multiply_packed(kernel, false, rows, a, a_row, b, c, c_row, add);
}

int64_t transposed_workspace(int64_t cols) { return packed_size(kTall, cols); }

void matmul_transposed(int64_t rows, int64_t inner, int64_t cols, const float* a, int64_t a_row,
                       const float* b, int64_t b_row, float* c, int64_t c_row, bool add, float* workspace) {
  const Kernel& kernel = *chosen().load();
  if (&kernel == &kBlas) return blas_matmul(true, rows, inner, cols, a, a_row, b, b_row, c, c_row, add);
  const int64_t wide = 2 * kernel.lanes, in_place = b_row % kSameSets ? cols / wide * wide : 0;
  for (int64_t p = 0; p < inner; p += kTall, a += kTall * a_row, b += kTall * b_row) {
    const int64_t steps = std::min(kTall, inner - p);
    for (int64_t j = 0; j < in_place; j += wide) {
      multiply_panel(kernel, true, rows, steps, wide, a, a_row, b + j, 2, b_row, c + j, c_row, add || p > 0);
    }
    if (in_place == cols) continue;
    const Packed rest = pack(steps, cols - in_place, {b + in_place, b_row, 1}, workspace);
    multiply_packed(kernel, true, rows, a, a_row, rest, c + in_place, c_row, add || p > 0);
  }
}
