// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "critic/tanh_gaussian.cu"
#include "critic/tanh_gaussian.h"
#include "random_numbers.h"

namespace {

// On the host exp, log1p and tanh are the same, and so are the bits.
TEST(CudaTanhGaussian, IsTheCpus) {
  constexpr int64_t kActions = 4, kWide = 7;
  std::mt19937_64 random(1);
  cuda_on_host::in_every_order([&] {
    for (int64_t rows : {1, 130}) {
      const TanhGaussian cpu{rows, kActions, -2.0f, 1.0f};
      const TanhGaussianCuda gpu{rows, kActions, -2.0f, 1.0f};
      auto output = normal_numbers(random, rows * 2 * kActions);
      for (float& value : output) value *= 3;  // beyond both limits
      const auto noise = normal_numbers(random, rows * kActions),
                 daction = normal_numbers(random, rows * kActions), dlog_prob = normal_numbers(random, rows);
      std::vector<float> action(rows * kWide, -7), log_prob(rows), doutput(rows * 2 * kActions);
      std::vector<float> got_action(rows * kWide, -7), got_log_prob(rows), got_doutput(rows * 2 * kActions);
      tanh_gaussian_sample(cpu, output.data(), noise.data(), action.data(), kWide, log_prob.data());
      tanh_gaussian_sample_cuda(gpu, output.data(), noise.data(), got_action.data(), kWide,
                                got_log_prob.data(), nullptr);
      EXPECT_EQ(got_action, action);
      EXPECT_EQ(got_log_prob, log_prob);
      tanh_gaussian_backward(cpu, output.data(), noise.data(), action.data(), kWide, daction.data(),
                             dlog_prob.data(), doutput.data());
      tanh_gaussian_backward_cuda(gpu, output.data(), noise.data(), action.data(), kWide, daction.data(),
                                  dlog_prob.data(), got_doutput.data(), nullptr);
      EXPECT_EQ(got_doutput, doutput);
      std::vector<float> mode(rows * kActions), got_mode(rows * kActions);
      tanh_gaussian_mode(cpu, output.data(), mode.data());
      tanh_gaussian_sample_cuda(gpu, output.data(), nullptr, got_mode.data(), kActions, nullptr, nullptr);
      EXPECT_EQ(got_mode, mode);
    }
  });
}

TEST(CudaTanhGaussian, ShowsANanOfTheDeviation) {
  const float output[] = {0, NAN}, noise[] = {1};
  float action[2], log_prob[2];
  tanh_gaussian_sample({1, 1, -2.0f, 1.0f}, output, noise, &action[0], 1, &log_prob[0]);
  tanh_gaussian_sample_cuda({1, 1, -2.0f, 1.0f}, output, noise, &action[1], 1, &log_prob[1], nullptr);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(std::isnan(action[i]) && std::isnan(log_prob[i])) << i;
}

}  // namespace
