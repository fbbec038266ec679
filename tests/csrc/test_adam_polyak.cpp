#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "critic/adam_polyak.h"

namespace {

const double kInfinity = std::numeric_limits<double>::infinity();

AdamPolyak settings(double clip, double weight_decay = 0.0) {
  return {0.1, 0.9, 0.999, 1e-5, weight_decay, clip, 0.25, 1};
}

}  // namespace

TEST(AdamPolyak, FirstStepByHand) {
  std::vector<float> value{1, 1}, mean(2), square(2), target{0, 2};
  const std::vector<float> gradient{3, -4};
  const double norm =
      adam_polyak(settings(1.0), 2, gradient.data(), mean.data(), square.data(), value.data(), target.data());
  EXPECT_DOUBLE_EQ(norm, 5.0);
  // Scaled to norm 1: 0.6, -0.8. After the corrections the first step is lr g / (|g| + eps).
  EXPECT_NEAR(value[0], 1 - 0.1 * 0.6 / (0.6 + 1e-5), 1e-6);
  EXPECT_NEAR(value[1], 1 + 0.1 * 0.8 / (0.8 + 1e-5), 1e-6);
  EXPECT_NEAR(target[0], 0.25 * value[0], 1e-7);
  EXPECT_NEAR(target[1], 2 + 0.25 * (value[1] - 2), 1e-7);
}

TEST(AdamPolyak, DecayIsDecoupledAndAnUnclippedGradientWhole) {
  std::vector<float> value{2}, mean(1), square(1);
  const float gradient = 0;
  adam_polyak(settings(kInfinity, 0.5), 1, &gradient, mean.data(), square.data(), value.data(), nullptr);
  EXPECT_FLOAT_EQ(value[0], 2 * (1 - 0.1f * 0.5f));  // a zero gradient: 0 / 0 is not met
}

TEST(AdamPolyak, AGradientThatIsNotFiniteIsSeen) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> value{1, 1}, mean(2), square(2);
    const std::vector<float> gradient{bad, 1};
    const double norm =
        adam_polyak(settings(1.0), 2, gradient.data(), mean.data(), square.data(), value.data(), nullptr);
    EXPECT_FALSE(std::isfinite(norm));
    EXPECT_FALSE(std::isfinite(value[0]));
  }
}

TEST(AdamPolyak, ChunksGiveTheWholesBits) {
  const int64_t n = 2 * kAdamChunk + 77;
  std::vector<float> gradient(n), value(n, 1.0f), mean(n), square(n);
  for (int64_t i = 0; i < n; ++i) gradient[i] = static_cast<float>(i % 97) - 40.0f;
  std::vector<float> parts(value), parts_mean(mean), parts_square(square);
  const double norm =
      adam_polyak(settings(1.0), n, gradient.data(), mean.data(), square.data(), value.data(), nullptr);
  double squares = 0;
  for (int64_t i = 0; i < n; i += kAdamChunk)
    squares += squared_norm(std::min(kAdamChunk, n - i), gradient.data() + i);
  EXPECT_EQ(std::sqrt(squares), norm);
  for (int64_t i = 0; i < n; i += kAdamChunk) {
    adam_polyak_apply(settings(1.0), norm, std::min(kAdamChunk, n - i), gradient.data() + i,
                      parts_mean.data() + i, parts_square.data() + i, parts.data() + i, nullptr);
  }
  EXPECT_EQ(parts, value);
}
