#include <gtest/gtest.h>

#include <vector>

#include "critic/head_gather.h"

using Floats = std::vector<float>;

// One critic, three rows (their tasks out of order), width 2, two heads.
TEST(HeadGather, OneOutputByHand) {
  const HeadGather head{1, 3, 2, 1, 2, 2};
  const Floats x{1, 2, 3, 4, 5, 6}, kernel{1, 10, 100, 1000}, bias{0.5f, 0.25f}, dy{1, 2, 3};
  const std::vector<int64_t> task{1, 0, 1};
  Floats y(3), dx(6), dkernel(4), dbias(2), workspace(head_gather_workspace(head));
  head_gather_forward(head, x.data(), kernel.data(), bias.data(), task.data(), y.data(), workspace.data());
  EXPECT_EQ(y, (Floats{2100.25f, 43.5f, 6500.25f}));
  head_gather_backward(head, x.data(), kernel.data(), task.data(), dy.data(), dx.data(), dkernel.data(),
                       dbias.data(), workspace.data());
  EXPECT_EQ(dx, (Floats{100, 1000, 2, 20, 300, 3000}));
  EXPECT_EQ(dkernel, (Floats{6, 8, 16, 20}));
  EXPECT_EQ(dbias, (Floats{2, 4}));
}

TEST(HeadGather, SeveralOutputsOfRowsThatAreApart) {
  const HeadGather head{1, 2, 1, 2, 3, 4};
  const Floats x{2, -9, -9, -9, 3, -9, -9, -9}, kernel{1, 2, 3, 4, 5, 6}, bias{0, 0, 0, 0, 0.5f, 0.5f},
      dy{1, 1, 1, 2};
  const std::vector<int64_t> task{2, 0};
  Floats y(4), dx(8, -7), dkernel(6), dbias(6), workspace(head_gather_workspace(head));
  head_gather_forward(head, x.data(), kernel.data(), bias.data(), task.data(), y.data(), workspace.data());
  EXPECT_EQ(y, (Floats{10.5f, 12.5f, 3, 6}));
  head_gather_backward(head, x.data(), kernel.data(), task.data(), dy.data(), dx.data(), dkernel.data(),
                       dbias.data(), workspace.data());
  EXPECT_EQ(dx, (Floats{11, -7, -7, -7, 5, -7, -7, -7}));
  EXPECT_EQ(dkernel, (Floats{3, 6, 0, 0, 2, 2}));  // the second task has no rows
  EXPECT_EQ(dbias, (Floats{1, 2, 0, 0, 1, 1}));
}
