// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "replay/flat_sum_tree.cuh"
#include "replay/flat_sum_tree.h"

namespace {

constexpr int kThreads = 64;

__global__ void build(FlatSumTreeCuda tree) {
  for (int64_t group = threadIdx.x; group < tree.blocks * 16; group += kThreads) tree.update_group(group);
  __syncthreads();
  for (int64_t block = threadIdx.x; block < tree.blocks; block += kThreads) tree.update_block(block);
}

__global__ void search(FlatSumTreeCuda tree, const double* mass, int n, int64_t* leaf) {
  __shared__ double tile[FlatSumTreeCuda::kTile];
  tree.prepare(tile);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) leaf[i] = tree.find(mass[i]);
}

struct Memory {
  std::vector<float> leaves, maxima16, maxima256;
  std::vector<double> sums16, sums256, prefix;
  FlatSumTreeCuda tree;
  explicit Memory(int64_t blocks)
      : leaves(256 * blocks),
        maxima16(16 * blocks),
        maxima256(blocks),
        sums16(16 * blocks),
        sums256(blocks),
        prefix(blocks + 1),
        tree{blocks,        leaves.data(),   sums16.data(),   sums256.data(),
             prefix.data(), maxima16.data(), maxima256.data()} {}
};

// Leaves of very different sizes, many of them zero: the total, the greatest and every search are the CPU's,
// bit for bit.
TEST(CudaFlatSumTree, SearchesAsTheCpuDoes) {
  std::mt19937_64 random(7);
  cuda_on_host::in_every_order([&] {
    for (int64_t blocks : {1, 2, 600}) {
      Memory memory(blocks);
      const int64_t leaves = 256 * blocks - 3;
      for (int64_t i = 0; i < leaves; ++i)
        if (random() % 3 != 0) memory.leaves[i] = std::exp(static_cast<float>(random() % 4000) / 100 - 20);
      FlatSumTree cpu(leaves, best_instruction_set());
      cpu.fill(memory.leaves.data());
      cpu.prepare();
      launch("build", build, 1, kThreads, 0, nullptr, memory.tree);
      EXPECT_EQ(*std::max_element(memory.maxima256.begin(), memory.maxima256.end()), cpu.greatest());
      std::vector<double> mass{0.0, std::nextafter(cpu.total(), 0.0)};
      while (mass.size() < 200) mass.push_back(static_cast<double>(random() >> 11) * 0x1p-53 * cpu.total());
      std::vector<int64_t> got(mass.size(), -1), expected(mass.size(), -2);
      launch("search", search, 1, kThreads, 0, nullptr, memory.tree, mass.data(),
             static_cast<int>(mass.size()), got.data());
      EXPECT_EQ(memory.prefix.back(), cpu.total());
      cpu.find(mass.data(), static_cast<int64_t>(mass.size()), expected.data());
      EXPECT_EQ(got, expected);
      for (int64_t leaf : got) EXPECT_GT(memory.leaves[leaf], 0.0f);
    }
  });
}

}  // namespace
