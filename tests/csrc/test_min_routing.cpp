#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "critic/min_routing.h"

using Indices = std::vector<int64_t>;

TEST(MinRouting, SortsRowsByTheirLeastMemberAndKeepsTheirOrder) {
  const std::vector<float> q{1, 5, 2, 0, 7,   // critic 0
                             3, 4, 2, 1, 6,   // critic 1
                             9, 9, 9, 9, 6};  // critic 2
  Indices start(4), row(5);
  std::vector<float> least(5);
  route_rows(3, 5, q.data(), start.data(), row.data(), least.data());
  EXPECT_EQ(start, (Indices{0, 3, 5, 5}));
  EXPECT_EQ(row,
            (Indices{0, 2, 3, 1, 4}));  // rows 2 and 4 are ties: the first critic that attains the minimum
  EXPECT_EQ(least, (std::vector<float>{1, 4, 2, 0, 6}));
}

TEST(MinRouting, CountsNaNAsLeast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> q{1, nan, 3, 2, 0, nan};
  Indices start(3), row(3);
  std::vector<float> least(3);
  route_rows(2, 3, q.data(), start.data(), row.data(), least.data());
  EXPECT_EQ(start, (Indices{0, 2, 3}));
  EXPECT_EQ(row, (Indices{0, 1, 2}));
  EXPECT_EQ(least[0], 1);
  EXPECT_NE(least[1], least[1]);
  EXPECT_NE(least[2], least[2]);
}

TEST(MinRouting, HeadGradientGoesThroughLivingUnitsOfTheRowsOwnHead) {
  const Indices row{2, 0}, task{1, 0, 0};
  const std::vector<float> kernel{1, 2, 3, 4, 5, 6};  // two heads of width 3
  const std::vector<float> y{1, 0, 1, -9,             // rows 4 apart; the fourth number is no unit
                             1, 1, 1, -9, 0, 1, 1, -9};
  std::vector<float> dz(8, -7);
  routed_head(2, 3, row.data(), task.data(), kernel.data(), -0.5f, y.data(), 4, dz.data(), 4);
  EXPECT_EQ(dz, (std::vector<float>{0, -1, -1.5f, -7, -2, 0, -3, -7}));
  std::vector<float> dx{1, 1, 1, 1, 2, 2, 2, 2};
  routed_mask(2, 3, row.data(), y.data(), 4, dx.data(), 4);
  EXPECT_EQ(dx, (std::vector<float>{0, 1, 1, 1, 2, 0, 2, 2}));
}
