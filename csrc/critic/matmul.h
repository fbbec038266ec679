#pragma once

#include <cstdint>

// Single-precision matrix products for the shapes of batched MLPs. No threads inside; safe to call from
// several. The instruction set (AVX-512, AVX2 + FMA, or portable: SSE2, NEON) is chosen once, at the first
// call. Every output is one chain of sums in the order of `inner`, so its bits depend on the instruction set
// and on nothing else. A BLAS may take the place of these kernels; then its own promises hold.

// A matrix seen through strides, in floats: element (i, j) is data[i * row + j * col]. One of the strides
// must be 1.
struct View {
  const float* data;
  int64_t row, col;
};

// A right-hand matrix laid out in the order in which the kernels read it.
struct Packed {
  int64_t inner, cols;
  const float* data;
};

// Floats that `pack` writes for an inner x cols matrix.
int64_t packed_size(int64_t inner, int64_t cols);
Packed pack(int64_t inner, int64_t cols, View b, float* into);

// c = a b, or c += a b where `add`. b.inner is at least 1; a is [rows, b.inner], c [rows, b.cols], with rows
// a_row and c_row floats apart.
void matmul(int64_t rows, const float* a, int64_t a_row, const Packed& b, float* c, int64_t c_row, bool add);

// c = a^T b, or c += a^T b where `add`: a is [inner, rows], b [inner, cols], inner at least 1, neither packed
// before. `workspace` holds transposed_workspace(cols) floats.
int64_t transposed_workspace(int64_t cols);
void matmul_transposed(int64_t rows, int64_t inner, int64_t cols, const float* a, int64_t a_row,
                       const float* b, int64_t b_row, float* c, int64_t c_row, bool add, float* workspace);

// "avx512", "avx2", "portable" or "blas": what the products run on.
const char* matmul_kernel();
// Takes a named kernel instead of the best one; false if there is no such kernel here.
bool choose_matmul_kernel(const char* name);

// Fortran's sgemm with 32-bit integers. Must be safe to call from several threads, and is best
// single-threaded.
using Sgemm = void (*)(char* transa, char* transb, int* m, int* n, int* k, float* alpha, float* a, int* lda,
                       float* b, int* ldb, float* beta, float* c, int* ldc);
// Makes this library's sgemm the kernel "blas".
void offer_blas(Sgemm sgemm);
