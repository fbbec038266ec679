#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "replay/power.h"

namespace {

std::vector<double> numbers() {
  std::vector<double> x{0, 1e-45, 1.17e-38, 1e-30, 0.5, 0.7071067811865475, 0.7071067811865476,
                        1, 1.5,   2,        3.4e38};
  for (int i = 0; i < 2000; ++i) x.push_back(std::exp(0.08 * (i - 1000)));
  return x;
}

TEST(Power, IsWithin1e11OfTheLibrarys) {
  const auto x = numbers();
  std::vector<double> y(x.size());
  for (double exponent : {-1.0, -0.4, 0.0, 0.3, 0.6, 1.0, 2.0}) {
    power(InstructionSet::portable, x.data(), static_cast<int64_t>(x.size()), exponent, y.data());
    EXPECT_EQ(y[0], 0);
    for (size_t i = 1; i < x.size(); ++i)
      EXPECT_NEAR(y[i] / std::pow(x[i], exponent), 1, 1e-11) << x[i] << " " << exponent;
  }
}

TEST(Power, LeavesTheRangeOfDoublesAtZeroAndInfinity) {
  const double x[] = {1e-300, 1e300};
  double y[2];
  power(InstructionSet::portable, x, 2, 50, y);
  EXPECT_EQ(y[0], 0);
  EXPECT_TRUE(std::isinf(y[1]));
}

TEST(Power, HasTheSameBitsOnEveryInstructionSet) {
  const auto x = numbers();
  std::vector<double> portable(x.size()), other(x.size());
  for (double exponent : {-0.4, 0.6}) {
    power(InstructionSet::portable, x.data(), static_cast<int64_t>(x.size()), exponent, portable.data());
    for (auto set : {InstructionSet::avx2, InstructionSet::avx512}) {
      if (!is_supported(set)) continue;
      power(set, x.data(), static_cast<int64_t>(x.size()), exponent, other.data());
      EXPECT_EQ(std::memcmp(portable.data(), other.data(), x.size() * sizeof(double)), 0);
    }
  }
}

}  // namespace
