// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "critic/td_target.cu"
#include "critic/td_target.h"

namespace {

struct Case {
  int64_t critics, rows;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.critics << "x" << c.rows;
  }
};

class CudaTdTarget : public testing::TestWithParam<Case> {};

std::vector<float> normal(std::mt19937_64& generator, int64_t n, float scale) {
  std::normal_distribution<float> draw(0.0f, scale);
  std::vector<float> x(n);
  for (float& value : x) value = draw(generator);
  return x;
}

TEST_P(CudaTdTarget, MatchesTheCpuAndDoublePrecision) {
  const int64_t critics = GetParam().critics, rows = GetParam().rows;
  std::mt19937_64 generator(static_cast<uint64_t>(critics * 1000 + rows));
  const auto reward = normal(generator, rows, 5), log_prob = normal(generator, rows, 3);
  const auto next_q = normal(generator, critics * rows, 100), q = normal(generator, critics * rows, 100);
  auto temperature = normal(generator, rows, 1), weight = normal(generator, rows, 1), terminated = reward,
       discount = reward;
  for (int64_t b = 0; b < rows; ++b) {
    terminated[b] = b % 3 == 0;
    discount[b] = 1.0f / static_cast<float>(1 + b % 4);
    weight[b] = std::fabs(weight[b]);
    temperature[b] = std::fabs(temperature[b]);
  }
  std::vector<float> expected(rows);
  td_target(critics, rows, reward.data(), terminated.data(), next_q.data(), log_prob.data(),
            temperature.data(), discount.data(), expected.data());
  double loss = 0.0, mean = 0.0;
  const double n = static_cast<double>(critics * rows);
  for (int64_t i = 0; i < critics * rows; ++i) {
    const double delta = double{q[i]} - expected[i % rows];
    loss += weight[i % rows] * delta * delta / n;
    mean += q[i] / n;
  }
  std::vector<double> workspace(td_target_cuda_workspace(rows) / sizeof(double), 0.0);
  std::vector<float> first;
  cuda_on_host::in_every_order([&] {
    std::vector<float> target(rows, NAN), dq(critics * rows, NAN), priority(rows, NAN), means(2, NAN);
    td_target_cuda({critics, rows, reward.data(), terminated.data(), next_q.data(), log_prob.data(),
                    temperature.data(), q.data(), weight.data(), discount.data(), target.data(), dq.data(),
                    priority.data(), means.data(), workspace.data()},
                   nullptr);
    EXPECT_EQ(target, expected);  // the same operations in the same order
    // Single precision per element: a few roundings of 6e-8.
    EXPECT_NEAR(means[0], loss, 1e-6 * loss);
    EXPECT_NEAR(means[1], mean, 1e-5 * 100);
    for (int64_t b = 0; b < rows; ++b) {
      double distance = 0.0;
      for (int64_t e = 0; e < critics; ++e) {
        const double delta = double{q[e * rows + b]} - expected[b];
        const double slope = 2.0 * weight[b] * delta / n;
        distance += std::fabs(delta) / static_cast<double>(critics);
        ASSERT_NEAR(dq[e * rows + b], slope, 1e-6 * std::fabs(slope) + 1e-7);
      }
      ASSERT_NEAR(priority[b], distance, 1e-6 * distance + 1e-5);
    }
    EXPECT_EQ(workspace, std::vector<double>(workspace.size(), 0.0));
    std::vector<float> alone(rows, NAN);
    td_target_cuda(
        {critics, rows, reward.data(), terminated.data(), next_q.data(), log_prob.data(), temperature.data(),
         nullptr, nullptr, discount.data(), alone.data(), nullptr, nullptr, nullptr, nullptr},
        nullptr);
    EXPECT_EQ(alone, expected);
    if (first.empty()) first = means;
    EXPECT_EQ(means, first) << "the sums depend on the order of threads";
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaTdTarget,
                         testing::Values(Case{1, 1}, Case{2, 255}, Case{2, 256}, Case{2, 257}, Case{10, 700},
                                         Case{3, 1280}));

TEST(CudaTdTarget, ShowsANanOfAnyCritic) {
  const float one[] = {1, 1, 1}, zero[] = {0, 0, 0};
  const float next_q[] = {NAN, 5, 5, 5, NAN, 5, 5, 5, NAN};  // critic e's is in row e
  float expected[3], target[3];
  td_target(3, 3, one, zero, next_q, one, one, one, expected);
  td_target_cuda(
      {3, 3, one, zero, next_q, one, one, nullptr, nullptr, one, target, nullptr, nullptr, nullptr, nullptr},
      nullptr);
  for (int b = 0; b < 3; ++b) {
    EXPECT_TRUE(std::isnan(expected[b])) << b;
    EXPECT_TRUE(std::isnan(target[b])) << b;
  }
}

TEST(CudaTdTarget, WorkedByHand) {
  // Row 0 goes on: 1 + 0.5 (min(4, 2) - 0.5 * 2) = 1.5. Row 1 has ended: 3.
  const float reward[] = {1, 3}, terminated[] = {0, 1}, next_q[] = {4, 9, 2, 9}, log_prob[] = {2, 9};
  const float temperature[] = {0.5, 9}, q[] = {2.5, 3, 0.5, 1}, weight[] = {1, 2}, discount[] = {0.5, 0.5};
  float target[2], dq[4], priority[2], mean[2];
  std::vector<double> workspace(td_target_cuda_workspace(2) / sizeof(double), 0.0);
  td_target_cuda({2, 2, reward, terminated, next_q, log_prob, temperature, q, weight, discount, target, dq,
                  priority, mean, workspace.data()},
                 nullptr);
  EXPECT_EQ(std::vector<float>(target, target + 2), (std::vector<float>{1.5, 3}));
  EXPECT_EQ(std::vector<float>(priority, priority + 2), (std::vector<float>{1, 1}));
  EXPECT_EQ(std::vector<float>(dq, dq + 4), (std::vector<float>{0.5, 0, -0.5, -2}));
  EXPECT_EQ(mean[0], 2.5f);  // (1 + 0 + 1 + 2 * 4) / 4
  EXPECT_EQ(mean[1], 1.75f);
}

}  // namespace
