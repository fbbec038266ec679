#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "critic/matmul.h"

namespace {

// What a BLAS does, and how it refuses: leading dimensions that are too short, even where no second column
// is.
void column_major(char* transa, char* transb, int* m, int* n, int* k, float* alpha, float* a, int* lda,
                  float* b, int* ldb, float* beta, float* c, int* ldc) {
  const bool ta = *transa == 'T', tb = *transb == 'T';
  ASSERT_GE(*lda, ta ? *k : *m);
  ASSERT_GE(*ldb, tb ? *n : *k);
  ASSERT_GE(*ldc, *m);
  for (int j = 0; j < *n; ++j) {
    for (int i = 0; i < *m; ++i) {
      double sum = 0.0;
      for (int p = 0; p < *k; ++p)
        sum += static_cast<double>(a[ta ? p + i * *lda : i + p * *lda]) * b[tb ? j + p * *ldb : p + j * *ldb];
      float& out = c[i + j * *ldc];
      out = static_cast<float>(*alpha * sum + (*beta != 0.0f ? *beta * out : 0.0f));
    }
  }
}

// Every shape and layout on one named kernel, against sums in double. Results lie in the middle of guarded
// rows.
class Matmul : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    best_ = matmul_kernel();
    offer_blas(column_major);
    if (!choose_matmul_kernel(GetParam())) GTEST_SKIP() << "this machine has no " << GetParam();
  }
  void TearDown() override { choose_matmul_kernel(best_.c_str()); }

  std::string best_;
  std::mt19937 generator_{1};

  std::vector<float> random(int64_t n) {
    std::normal_distribution<float> normal;
    std::vector<float> x(n);
    for (float& value : x) value = normal(generator_);
    return x;
  }

  // Rows of a, c and a plain b are a little farther apart than they are long. A transposed matrix is stored
  // so: element (i, j) is where its transpose has (j, i).
  void check(int64_t rows, int64_t inner, int64_t cols, bool a_transposed, bool b_transposed, bool add) {
    const int64_t gap = 3, c_row = cols + gap, a_row = (a_transposed ? rows : inner) + gap,
                  b_row = b_transposed ? inner
                          : cols % 128 ? cols + gap
                                       : cols;
    const std::vector<float> a = random((a_transposed ? inner : rows) * a_row),
                             b = random((b_transposed ? cols : inner) * b_row), before = random(rows * c_row);
    const View left = a_transposed ? View{a.data(), 1, a_row} : View{a.data(), a_row, 1};
    const View right = b_transposed ? View{b.data(), 1, b_row} : View{b.data(), b_row, 1};
    std::vector<float> room(std::max(packed_size(inner, cols), transposed_workspace(cols))), c = before;
    if (a_transposed) {
      matmul_transposed(rows, inner, cols, a.data(), a_row, b.data(), b_row, c.data(), c_row, add,
                        room.data());
    } else {
      matmul(rows, a.data(), a_row, pack(inner, cols, right, room.data()), c.data(), c_row, add);
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < c_row; ++j) {
        if (j >= cols) {
          ASSERT_EQ(c[i * c_row + j], before[i * c_row + j]) << "wrote beyond column " << cols;
          continue;
        }
        double sum = add ? before[i * c_row + j] : 0.0, size = std::fabs(sum);
        for (int64_t p = 0; p < inner; ++p) {
          const double term = static_cast<double>(left.data[i * left.row + p * left.col]) *
                              right.data[p * right.row + j * right.col];
          sum += term;
          size += std::fabs(term);
        }
        // A chain of `inner` single-precision sums: each rounds by 6e-8 of what has been summed.
        ASSERT_NEAR(c[i * c_row + j], sum, 1e-7 * size * std::sqrt(static_cast<double>(inner + 1)) + 1e-7)
            << rows << "x" << inner << "x" << cols << " at " << i << "," << j;
      }
    }
  }
};

TEST_P(Matmul, EveryLayoutOfOddShapes) {
  const int64_t shapes[][3] = {{1, 1, 1},     {3, 5, 7},    {14, 16, 32},  {15, 43, 33},
                               {29, 256, 8},  {2, 257, 65}, {60, 300, 17}, {13, 513, 47},
                               {252, 20, 16}, {5, 1, 4},    {9, 258, 128}};
  for (const auto& [rows, inner, cols] : shapes) {
    for (bool add : {false, true}) {
      check(rows, inner, cols, false, false, add);
      check(rows, inner, cols, false, true, add);
      check(rows, inner, cols, true, false, add);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Matmul, testing::Values("avx512", "avx2", "portable", "blas"),
                         [](const auto& info) { return std::string(info.param); });

TEST(MatmulKernel, UnknownNamesAreRefused) { EXPECT_FALSE(choose_matmul_kernel("avx1024")); }

}  // namespace
