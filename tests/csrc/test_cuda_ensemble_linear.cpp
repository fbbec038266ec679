// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "critic/ensemble_linear.cu"
#include "critic/ensemble_linear.h"
#include "random_numbers.h"

namespace {

struct Case {
  EnsembleLinearCuda layer;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.layer.critics << "x" << c.layer.rows << "x" << c.layer.outputs << "_tasks"
               << c.layer.tasks;
  }
};

class CudaEnsembleLinear : public testing::TestWithParam<Case> {
 protected:
  EnsembleLinearCuda l = GetParam().layer;
  int64_t n = l.critics * l.rows * l.outputs;
  std::mt19937_64 random{3};
};

TEST_P(CudaEnsembleLinear, BiasReluAndMaskHaveTheCpusBits) {
  const auto product = normal_numbers(random, n), bias = normal_numbers(random, l.critics * l.outputs);
  const auto task_row = normal_numbers(random, l.critics * l.tasks * l.outputs),
             dy = normal_numbers(random, n);
  const auto task = l.tasks > 0 ? whole_numbers(random, l.rows, l.tasks) : std::vector<int64_t>();
  const int64_t* ids = l.tasks > 0 ? task.data() : nullptr;
  const float* own = l.tasks > 0 ? task_row.data() : nullptr;
  auto y = product, dz = dy;
  for (int64_t e = 0; e < l.critics; ++e) {
    add_bias_relu(l.rows, l.outputs, bias.data() + e * l.outputs,
                  own ? own + e * l.tasks * l.outputs : nullptr, ids, y.data() + e * l.rows * l.outputs,
                  l.outputs);
  }
  mask_rows(l.critics * l.rows, l.outputs, y.data(), l.outputs, dz.data(), l.outputs, nullptr);
  cuda_on_host::in_every_order([&] {
    auto got = product, got_dz = dy;
    ensemble_linear_bias_relu_cuda(l, bias.data(), own, ids, got.data(), nullptr);
    EXPECT_EQ(got, y);
    ensemble_linear_mask_cuda(l, y.data(), got_dz.data(), got_dz.data(), nullptr);
    EXPECT_EQ(got_dz, dz);
  });
}

TEST_P(CudaEnsembleLinear, BiasGradientMatchesTheCpu) {
  const auto dz = normal_numbers(random, n);
  const auto task = whole_numbers(random, l.rows, std::max<int64_t>(l.tasks, 1));
  std::vector<int64_t> start, order(l.rows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return task[a] < task[b]; });
  for (int64_t t = 0; t <= l.tasks; ++t)
    start.push_back(std::count_if(task.begin(), task.end(), [&](int64_t own) { return own < t; }));
  std::vector<float> dbias(l.critics * l.outputs), dtask_row(l.critics * l.tasks * l.outputs);
  for (int64_t e = 0; e < l.critics; ++e) {
    bias_gradient(l.rows, l.outputs, l.tasks, dz.data() + e * l.rows * l.outputs, l.outputs,
                  l.tasks > 0 ? task.data() : nullptr, dbias.data() + e * l.outputs,
                  dtask_row.data() + e * l.tasks * l.outputs);
  }
  cuda_on_host::in_every_order([&] {
    std::vector<float> got(dbias.size(), NAN), got_row(dtask_row.size(), NAN);
    std::vector<float> workspace(ensemble_linear_cuda_workspace(l), NAN);
    ensemble_linear_bias_gradient_cuda(l, dz.data(), l.tasks > 0 ? start.data() : nullptr,
                                       l.tasks > 0 ? order.data() : nullptr, got.data(), got_row.data(),
                                       workspace.data(), nullptr);
    // Sums of at most 600 normal numbers in another order.
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], dbias[i], 1e-4);
    for (size_t i = 0; i < got_row.size(); ++i) ASSERT_NEAR(got_row[i], dtask_row[i], 1e-4);
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaEnsembleLinear,
                         testing::Values(Case{{1, 1, 1, 0}}, Case{{2, 30, 36, 3}}, Case{{2, 9, 35, 2}},
                                         Case{{1, 600, 4, 0}}, Case{{3, 17, 64, 0}}));

}  // namespace
