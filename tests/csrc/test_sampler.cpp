#include <gtest/gtest.h>

#include <vector>

#include "replay/sampler.h"
#include "rng.h"

namespace {

constexpr InstructionSet kSets[] = {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512};
constexpr Stream kStream{(uint64_t{7} << 40) + 3, (uint64_t{1} << 33) + 5};

uint64_t bits_of_lane(uint32_t task, int64_t lane) {
  return rng::bits64(rng::philox(kStream.seed, kStream.draw, task, static_cast<uint32_t>(lane / 2)), lane);
}

TEST(Sampler, LanesSideBySideHaveTheNumbersOfOneByOne) {
  constexpr int64_t kSize = 99'991;
  for (auto set : kSets) {
    if (!is_supported(set)) continue;
    for (int64_t n : {1, 2, 15, 16, 17, 100, 4097}) {
      std::vector<int64_t> offset(n);
      draw_uniform(set, kStream, kShared, kSize, n, offset.data());
      for (int64_t lane = 0; lane < n; ++lane)
        EXPECT_EQ(offset[lane], rng::below(bits_of_lane(kShared, lane), kSize)) << name_of(set) << " " << n;
    }
  }
}

TEST(Sampler, StratifiedLeavesAreThoseOfTheMassesOneByOne) {
  for (auto set : kSets) {
    if (!is_supported(set)) continue;
    FlatSumTree tree(5000, set);
    std::vector<float> weight(5000);
    for (int64_t i = 0; i < 5000; ++i) weight[i] = static_cast<float>(i * 7919 % 13);
    tree.fill(weight.data());
    tree.prepare();
    std::vector<double> scratch;
    for (int64_t n : {1, 17, 128}) {
      std::vector<int64_t> leaf(n);
      draw_stratified(set, kStream, 3, tree, {}, n, leaf.data(), scratch);
      const double stratum = tree.total() / static_cast<double>(n);
      for (int64_t lane = 0; lane < n; ++lane) {
        double mass = static_cast<double>(lane) * stratum + rng::unit(bits_of_lane(3, lane)) * stratum;
        int64_t alone;
        tree.find(&mass, 1, &alone);
        EXPECT_EQ(leaf[lane], alone) << name_of(set) << " " << n;
      }
    }
  }
}

}  // namespace
