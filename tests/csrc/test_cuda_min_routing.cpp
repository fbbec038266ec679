// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "critic/min_routing.cu"
#include "critic/min_routing.h"
#include "random_numbers.h"

namespace {

TEST(CudaMinRouting, RoutesAsTheCpuDoes) {
  std::mt19937_64 random(2);
  cuda_on_host::in_every_order([&] {
    for (int64_t members : {1, 3}) {
      for (int64_t rows : {1, 260}) {
        auto q = normal_numbers(random, members * rows);
        for (float& value : q) value = random() % 9 == 0 ? NAN : std::round(value);  // many ties
        std::vector<int64_t> start(members + 1), row(rows), got_start(members + 1, -1), got_row(rows, -1),
            space(rows);
        std::vector<float> least(rows), got_least(rows, -1);
        route_rows(members, rows, q.data(), start.data(), row.data(), least.data());
        route_rows_cuda(members, rows, q.data(), got_start.data(), got_row.data(), got_least.data(),
                        space.data(), nullptr);
        EXPECT_EQ(got_start, start);
        EXPECT_EQ(got_row, row);
        EXPECT_EQ(std::memcmp(got_least.data(), least.data(), rows * sizeof(float)), 0);

        std::vector<float> dq(members * rows, -1), expected(members * rows), minima(rows, -1);
        for (int64_t e = 0; e < members; ++e)
          for (int64_t i = start[e]; i < start[e + 1]; ++i) expected[e * rows + row[i]] = -0.25f;
        least_gradient_cuda(members, rows, q.data(), -0.25f, dq.data(), minima.data(), nullptr);
        EXPECT_EQ(dq, expected);
        EXPECT_EQ(std::memcmp(minima.data(), least.data(), rows * sizeof(float)), 0);
      }
    }
  });
}

}  // namespace
