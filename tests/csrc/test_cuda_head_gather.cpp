// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "critic/head_gather.cu"
#include "critic/head_gather.h"
#include "random_numbers.h"

namespace {

struct Case {
  HeadGatherCuda head;
  bool sorted;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.head.critics << "x" << c.head.rows << "x" << c.head.width << "x" << c.head.outputs
               << "_tasks" << c.head.tasks << (c.sorted ? "" : "_unsorted");
  }
};

// Sums of at most 300 terms of size 1 in another order: 300 roundings of 6e-8 at worst.
void expect_near(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 2e-5 * (1 + std::fabs(expected[i])));
}

class CudaHeadGather : public testing::TestWithParam<Case> {};

TEST_P(CudaHeadGather, MatchesTheCpu) {
  const auto [h, sorted] = GetParam();
  const HeadGather cpu{h.critics, h.rows, h.width, h.outputs, h.tasks, h.width};
  std::mt19937_64 random(11);
  const auto x = normal_numbers(random, h.critics * h.rows * h.width);
  const auto kernel = normal_numbers(random, h.critics * h.tasks * h.width * h.outputs);
  const auto bias = normal_numbers(random, h.critics * h.tasks * h.outputs);
  const auto dy = normal_numbers(random, h.critics * h.rows * h.outputs);
  auto task = whole_numbers(random, h.rows, h.tasks);
  if (sorted) std::sort(task.begin(), task.end());
  std::vector<float> workspace(head_gather_workspace(cpu)), y(dy.size()), dx(x.size()),
      dkernel(kernel.size()), dbias(bias.size());
  head_gather_forward(cpu, x.data(), kernel.data(), bias.data(), task.data(), y.data(), workspace.data());
  head_gather_backward(cpu, x.data(), kernel.data(), task.data(), dy.data(), dx.data(), dkernel.data(),
                       dbias.data(), workspace.data());
  cuda_on_host::in_every_order([&, h = h] {
    std::vector<float> got(y.size(), NAN), got_dx(x.size(), NAN), got_dkernel(kernel.size(), NAN),
        got_dbias(bias.size(), NAN);
    std::vector<int64_t> start(h.tasks + 1, -1), order(h.rows, -1);
    head_gather_forward_cuda(h, x.data(), kernel.data(), bias.data(), task.data(), got.data(), nullptr);
    expect_near(got, y);
    head_gather_input_gradient_cuda(h, kernel.data(), task.data(), dy.data(), got_dx.data(), nullptr);
    expect_near(got_dx, dx);
    rows_by_task_cuda(h.rows, h.tasks, task.data(), start.data(), order.data(), nullptr);
    head_gather_weight_gradient_cuda(h, x.data(), start.data(), order.data(), dy.data(), got_dkernel.data(),
                                     got_dbias.data(), nullptr);
    expect_near(got_dkernel, dkernel);
    expect_near(got_dbias, dbias);
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaHeadGather,
                         testing::Values(Case{{1, 1, 1, 1, 1}, true}, Case{{2, 70, 33, 1, 3}, true},
                                         Case{{2, 20, 64, 1, 5}, false}, Case{{1, 41, 48, 8, 3}, false},
                                         Case{{1, 9, 32, 11, 2}, true}));

TEST(CudaRowsByTask, SortsAndKeepsOrder) {
  std::mt19937_64 random(5);
  cuda_on_host::in_every_order([&] {
    for (int64_t rows : {1, 256, 700}) {
      const auto task = whole_numbers(random, rows, 4);
      std::vector<int64_t> start(6, -1), order(rows, -1), expected(rows);
      std::iota(expected.begin(), expected.end(), 0);
      std::stable_sort(expected.begin(), expected.end(),
                       [&](int64_t a, int64_t b) { return task[a] < task[b]; });
      rows_by_task_cuda(rows, 5, task.data(), start.data(), order.data(), nullptr);
      EXPECT_EQ(order, expected);
      for (int64_t t = 0; t < 5; ++t)
        EXPECT_EQ(start[t + 1] - start[t], std::count(task.begin(), task.end(), t)) << "task " << t;
      EXPECT_EQ(start[0], 0);
    }
  });
}

}  // namespace
