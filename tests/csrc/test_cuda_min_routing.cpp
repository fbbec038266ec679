// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "critic/min_routing.cu"
#include "critic/min_routing.h"
#include "random_numbers.h"

namespace {

TEST(CudaMinRouting, RoutesAsTheCpuDoes) {
  std::mt19937_64 random(2);
  cuda_on_host::in_every_order([&] {
    for (int64_t critics : {1, 3}) {
      for (int64_t rows : {1, 260}) {
        auto q = normal_numbers(random, critics * rows);
        for (float& value : q) value = random() % 9 == 0 ? NAN : std::round(value);  // many ties
        std::vector<int64_t> start(critics + 1), row(rows), got_start(critics + 1, -1), got_row(rows, -1),
            space(rows);
        std::vector<float> least(rows), got_least(rows, -1);
        route_rows(critics, rows, q.data(), start.data(), row.data(), least.data());
        route_rows_cuda(critics, rows, q.data(), got_start.data(), got_row.data(), got_least.data(),
                        space.data(), nullptr);
        EXPECT_EQ(got_start, start);
        EXPECT_EQ(got_row, row);
        EXPECT_EQ(std::memcmp(got_least.data(), least.data(), rows * sizeof(float)), 0);

        std::vector<float> dq(critics * rows, -1), expected(critics * rows), minima(rows, -1);
        for (int64_t e = 0; e < critics; ++e)
          for (int64_t i = start[e]; i < start[e + 1]; ++i) expected[e * rows + row[i]] = -0.25f;
        least_gradient_cuda(critics, rows, q.data(), -0.25f, dq.data(), minima.data(), nullptr);
        EXPECT_EQ(dq, expected);
        EXPECT_EQ(std::memcmp(minima.data(), least.data(), rows * sizeof(float)), 0);
      }
    }
  });
}

struct Case {
  int64_t critics, rows, width, inputs, cols;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.critics << "x" << c.rows << "x" << c.width << "_inputs" << c.inputs << "_cols" << c.cols;
  }
};

class CudaRouted : public testing::TestWithParam<Case> {};

// Against routed_head, a product in double and routed_mask, critic by critic.
TEST_P(CudaRouted, GoesBackThroughEachRowsOwnMember) {
  const Case c = GetParam();
  constexpr int64_t kTasks = 3;
  std::mt19937_64 random(7);
  auto q = normal_numbers(random, c.critics * c.rows);
  if (c.critics > 2) std::fill_n(q.begin() + c.rows, c.rows, 9.0f);  // nobody's least
  std::vector<int64_t> start(c.critics + 1), row(c.rows);
  std::vector<float> least(c.rows);
  route_rows(c.critics, c.rows, q.data(), start.data(), row.data(), least.data());
  const auto task = whole_numbers(random, c.rows, kTasks);
  const auto head = normal_numbers(random, c.critics * kTasks * c.width),
             kernel = normal_numbers(random, c.critics * c.inputs * c.width),
             y = normal_numbers(random, c.critics * c.rows * c.width),
             below = normal_numbers(random, c.critics * c.rows * c.cols);
  std::vector<float> dz(c.rows * c.width), masked(c.rows * c.cols), home(c.rows * c.cols);
  for (int64_t e = 0; e < c.critics; ++e) {
    const int64_t from = start[e], rows = start[e + 1] - from;
    routed_head(rows, c.width, row.data() + from, task.data(), head.data() + e * kTasks * c.width, -0.5f,
                y.data() + e * c.rows * c.width, c.width, dz.data() + from * c.width, c.width);
    for (int64_t i = from; i < start[e + 1]; ++i) {
      for (int64_t k = 0; k < c.cols; ++k) {
        double sum = 0.0;
        for (int64_t j = 0; j < c.width; ++j)
          sum += double{dz[i * c.width + j]} * kernel[(e * c.inputs + k) * c.width + j];
        home[row[i] * c.cols + k] = masked[i * c.cols + k] = static_cast<float>(sum);
      }
    }
    routed_mask(rows, c.cols, row.data() + from, below.data() + e * c.rows * c.cols, c.cols,
                masked.data() + from * c.cols, c.cols);
  }
  const RoutedCuda routed{c.critics, c.rows, start.data(), row.data()};
  // Sums of at most 70 products of size 1.
  const auto expect_near = [](const std::vector<float>& got, const std::vector<float>& expected) {
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-5) << i;
  };
  cuda_on_host::in_every_order([&] {
    std::vector<float> got_dz(dz.size(), NAN), got(masked.size(), NAN), got_home(home.size(), NAN);
    routed_head_cuda(routed, kTasks, c.width, task.data(), head.data(), -0.5f, y.data(), got_dz.data(),
                     nullptr);
    EXPECT_EQ(got_dz, dz);
    routed_layer_cuda(routed, c.width, c.inputs, c.cols, dz.data(), kernel.data(), below.data(), got.data(),
                      nullptr);
    expect_near(got, masked);
    routed_layer_cuda(routed, c.width, c.inputs, c.cols, dz.data(), kernel.data(), nullptr, got_home.data(),
                      nullptr);
    expect_near(got_home, home);
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaRouted,
                         testing::Values(Case{1, 1, 1, 1, 1}, Case{3, 130, 33, 43, 4},
                                         Case{2, 64, 16, 65, 65}, Case{4, 150, 70, 70, 70}));

}  // namespace
