// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "critic/adam_polyak.cu"
#include "critic/adam_polyak.h"
#include "random_numbers.h"

namespace {

struct State {
  std::vector<float> value, mean, square, target;
};

// The gradient's norm is summed in another order, so the clip may differ by a rounding, and with it what
// follows.
void expect_near(const std::vector<float>& got, const std::vector<float>& expected) {
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 1e-6 * (1e-3 + std::fabs(expected[i])));
}

TEST(CudaAdamPolyak, MatchesTheCpu) {
  for (int64_t n : {1, 10, 1027}) {
    for (bool with_target : {true, false}) {
      cuda_on_host::in_every_order([&] {
        std::mt19937_64 random(static_cast<uint64_t>(n));
        State cpu{normal_numbers(random, n), std::vector<float>(n), std::vector<float>(n),
                  normal_numbers(random, n)};
        State cuda = cpu;
        int64_t steps = 0;
        float norm = NAN;
        std::vector<double> workspace(adam_polyak_cuda_workspace(n) / sizeof(double) + 1, 0.0);
        for (int64_t step = 1; step <= 3; ++step) {
          const auto gradient = normal_numbers(random, n);
          const AdamPolyak settings{3e-4, 0.9, 0.999, 1e-5, 0.01, step == 3 ? INFINITY : 1.0, 0.005, step};
          const double expected =
              adam_polyak(settings, n, gradient.data(), cpu.mean.data(), cpu.square.data(), cpu.value.data(),
                          with_target ? cpu.target.data() : nullptr);
          adam_polyak_cuda({settings.lr, settings.beta1, settings.beta2, settings.eps, settings.weight_decay,
                            settings.clip, settings.polyak, n, gradient.data(), cuda.mean.data(),
                            cuda.square.data(), cuda.value.data(), with_target ? cuda.target.data() : nullptr,
                            &steps, &norm, workspace.data()},
                           nullptr);
          ASSERT_EQ(steps, step);
          ASSERT_NEAR(norm, expected, 1e-6 * expected);
          expect_near(cuda.mean, cpu.mean);
          expect_near(cuda.square, cpu.square);
          expect_near(cuda.value, cpu.value);
          expect_near(cuda.target, cpu.target);
        }
      });
    }
  }
}

}  // namespace
