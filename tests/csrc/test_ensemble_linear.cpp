#include <gtest/gtest.h>

#include <vector>

#include "critic/ensemble_linear.h"

using Floats = std::vector<float>;

// Two critics, two rows, two inputs, one unit, two tasks: all by hand.
TEST(EnsembleLinear, ByHand) {
  const EnsembleLinear layer{2, 2, 2, 1, 2, true};
  const Floats x{1, 2, 3, 4}, kernel{1, 1, -1, -1}, bias{0.5f, 1}, task_row{10, -20, 4, 30};
  const std::vector<int64_t> task{1, 0};
  Floats y(4), workspace(ensemble_linear_workspace(layer));
  ensemble_linear_forward(layer, x.data(), kernel.data(), bias.data(), task_row.data(), task.data(), y.data(),
                          workspace.data());
  EXPECT_EQ(y, (Floats{0, 17.5f, 28, 0}));  // 3 + 0.5 - 20 < 0; 7 + 0.5 + 10; -3 + 1 + 30; -7 + 1 + 4 < 0

  Floats dz{1, 2, 3, 4};
  ensemble_linear_mask(layer, y.data(), dz.data(), dz.data());
  EXPECT_EQ(dz, (Floats{0, 2, 3, 0}));
  Floats dkernel(4), dbias(2), dtask_row(4), dx(8);
  ensemble_linear_weight_gradients(layer, x.data(), task.data(), dz.data(), dkernel.data(), dbias.data(),
                                   dtask_row.data(), workspace.data());
  EXPECT_EQ(dkernel, (Floats{6, 8, 3, 6}));
  EXPECT_EQ(dbias, (Floats{2, 3}));
  EXPECT_EQ(dtask_row, (Floats{2, 0, 0, 3}));
  ensemble_linear_input_gradient(layer, kernel.data(), dz.data(), dx.data(), workspace.data());
  EXPECT_EQ(dx, (Floats{0, 0, 2, 2, -3, -3, 0, 0}));
}

// A sum of 100,000 equal numbers: in one go, single precision would be off in the third digit.
TEST(EnsembleLinear, BiasSumsGoByBlocks) {
  const int64_t rows = 100'000;
  const Floats dz(rows, 0.1f);
  float dbias;
  bias_gradient(rows, 1, 0, dz.data(), 1, nullptr, &dbias, nullptr);
  EXPECT_NEAR(dbias / rows, 0.1, 1e-6);
}
