#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "critic/td_target.h"

TEST(TdTarget, ByHand) {
  const std::vector<float> reward{1, 2}, terminated{0, 1}, next_q{10, 5, 8, 7}, log_prob{-2, 3},
      temperature{0.5f, 0.5f}, discount{0.9f, 0.9f};
  std::vector<float> target(2);
  td_target(2, 2, reward.data(), terminated.data(), next_q.data(), log_prob.data(), temperature.data(),
            discount.data(), target.data());
  EXPECT_FLOAT_EQ(target[0], 1 + 0.9f * (8 + 0.5f * 2));
  EXPECT_FLOAT_EQ(target[1], 2);  // terminated: the reward alone
}

TEST(TdTarget, ShowsNaNOfAnyCritic) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), zero[1] = {};
  for (int broken = 0; broken < 3; ++broken) {
    std::vector<float> next_q{3, 1, 2};
    next_q[broken] = nan;
    float target = 0;
    td_target(3, 1, zero, zero, next_q.data(), zero, zero, zero, &target);
    EXPECT_TRUE(std::isnan(target)) << broken;
  }
}
