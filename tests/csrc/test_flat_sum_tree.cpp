#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "replay/flat_sum_tree.h"

namespace {

constexpr InstructionSet kSets[] = {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512};

FlatSumTree random_tree(int64_t n, InstructionSet set, std::mt19937& random, double zeros) {
  FlatSumTree tree(n, set);
  std::vector<float> weight(n);
  for (auto& w : weight)
    w = std::bernoulli_distribution(zeros)(random) ? 0 : std::exponential_distribution<float>()(random);
  tree.fill(weight.data());
  return tree;
}

// The order in which a node's children are added up: quarter by quarter.
int64_t leaf_at(int64_t position) {
  const auto child = [](int64_t k) { return 4 * (k % 4) + k / 4; };
  return position / 256 * 256 + 16 * child(position / 16 % 16) + child(position % 16);
}

TEST(FlatSumTree, FindsTheLeafThatAWalkFinds) {
  std::mt19937 random(1);
  for (int64_t n : {1, 2, 15, 16, 17, 255, 256, 257, 5000}) {
    FlatSumTree tree = random_tree(n, InstructionSet::portable, random, 0.5);
    if (n < 3) tree.set(std::vector<int64_t>{0}.data(), std::vector<float>{1}.data(), 1);
    tree.prepare();
    for (int trial = 0; trial < 200; ++trial) {
      double mass = std::uniform_real_distribution<double>(0, tree.total())(random);
      double sum = 0;
      int64_t position = -1;
      while (sum <= mass) {
        const int64_t leaf = leaf_at(++position);
        if (leaf < n) sum += static_cast<double>(tree.leaf(leaf));
      }
      const double above = sum - mass, edge = 1e-9 * tree.total();
      int64_t found;
      tree.find(&mass, 1, &found);
      // The walk adds in another order; within its rounding the neighbour is as right.
      if (above > edge && tree.leaf(leaf_at(position)) - above > edge) {
        EXPECT_EQ(found, leaf_at(position)) << n;
      }
    }
  }
}

TEST(FlatSumTree, ParentsAreTheirChildrensAfterAnySet) {
  std::mt19937 random(2);
  for (auto set : kSets) {
    if (!is_supported(set)) continue;
    FlatSumTree tree(1000, set);
    for (int round = 0; round < 200; ++round) {
      std::vector<int64_t> index(1 + random() % 20);
      std::vector<float> weight(index.size());
      for (auto& i : index) i = random() % 1000;
      for (auto& w : weight) w = static_cast<float>(random() % 5);
      tree.set(index.data(), weight.data(), static_cast<int64_t>(index.size()));
      for (size_t i = 0; i < index.size(); ++i) {
        const auto last = std::find(index.rbegin(), index.rend(), index[i]);
        EXPECT_EQ(tree.leaf(index[i]), weight[index.rend() - last - 1]);
      }
      EXPECT_EQ(tree.check(), "");
      EXPECT_EQ(tree.greatest(), *std::max_element(tree.leaves(), tree.leaves() + 1000));
    }
  }
}

TEST(FlatSumTree, HasTheSameBitsOnEveryInstructionSet) {
  std::vector<std::vector<int64_t>> found;
  for (auto set : kSets) {
    if (!is_supported(set)) continue;
    std::mt19937 random(3);
    FlatSumTree tree = random_tree(100'001, set, random, 0.1);
    tree.prepare();
    std::vector<double> mass(20'000);
    for (auto& m : mass) m = std::uniform_real_distribution<double>(0, tree.total())(random);
    found.emplace_back(mass.size());
    tree.find(mass.data(), static_cast<int64_t>(mass.size()), found.back().data());
  }
  for (const auto& other : found) EXPECT_EQ(other, found.front());
}

TEST(FlatSumTree, NeverReturnsALeafWithoutWeight) {
  std::mt19937 random(4);
  for (auto set : kSets) {
    if (!is_supported(set)) continue;
    for (int trial = 0; trial < 100; ++trial) {
      FlatSumTree tree = random_tree(700, set, random, 0.97);
      tree.prepare();
      if (!(tree.total() > 0)) continue;
      std::vector<double> mass{0, std::nextafter(tree.total(), 0.0), tree.total(), tree.total() * 1.0000001};
      for (int i = 0; i < 1000; ++i)
        mass.push_back(std::uniform_real_distribution<double>(0, tree.total())(random));
      std::vector<int64_t> leaf(mass.size());
      tree.find(mass.data(), static_cast<int64_t>(mass.size()), leaf.data());
      for (int64_t i : leaf) EXPECT_GT(tree.leaf(i), 0);
    }
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kUpdates = 1'000'000;  // ten to thirty times slower
#else
constexpr int64_t kUpdates = 100'000'000;
#endif

TEST(FlatSumTree, DoesNotDrift) {
  std::mt19937 random(5);
  FlatSumTree tree = random_tree(1000, best_instruction_set(), random, 0);
  std::vector<int64_t> index(1000);
  std::vector<float> weight(1000);
  for (int64_t done = 0; done < kUpdates; done += 1000) {
    const uint32_t shift = random(), scale = random() % 60;
    for (int64_t i = 0; i < 1000; ++i) {
      index[i] = (i * 7 + shift) % 1000;
      weight[i] = std::ldexp(static_cast<float>(i ^ (shift & 511)), static_cast<int>(scale) - 30);
    }
    tree.set(index.data(), weight.data(), 1000);
  }
  EXPECT_EQ(tree.check(), "");
  std::fill(weight.begin(), weight.end(), 0.25f);
  tree.set(index.data(), weight.data(), 1000);
  tree.prepare();
  EXPECT_EQ(tree.total(), 250);  // exactly
}

// Sums of 4 million leaves in float32 are off by up to 28 %.
TEST(FlatSumTree, DrawsMillionsOfEqualLeavesEqually) {
  constexpr int64_t kLeaves = 1 << 22, kDraws = 1 << 14;
  FlatSumTree tree(kLeaves, best_instruction_set());
  tree.fill(std::vector<float>(kLeaves, 0.1f).data());
  tree.prepare();
  EXPECT_NEAR(tree.total() / (kLeaves * static_cast<double>(0.1f)), 1, 1e-12);
  std::vector<double> mass(kDraws);
  std::vector<int64_t> leaf(kDraws);
  for (int64_t i = 0; i < kDraws; ++i) mass[i] = (static_cast<double>(i) + 0.5) * tree.total() / kDraws;
  tree.find(mass.data(), kDraws, leaf.data());
  for (int64_t i = 0; i < kDraws; ++i) EXPECT_EQ(leaf[i] / 256, i / (kDraws / (kLeaves / 256)));
}

TEST(FlatSumTree, WhatEntersHasTheGreatestWeightThatIsLeft) {
  FlatSumTree tree(4, InstructionSet::portable);
  tree.enter(0, 1);
  EXPECT_EQ(tree.leaf(0), 1);  // nothing to compare with
  const int64_t index[] = {1, 2};
  const float weight[] = {3, 7};
  tree.set(index, weight, 2);
  tree.enter(3, 2);
  EXPECT_EQ(tree.leaf(2), 0);
  EXPECT_EQ(tree.leaf(3), 3);  // the 7 has left
  EXPECT_EQ(tree.check(), "");
}

TEST(FlatSumTree, CheckNoticesAForeignParent) {
  FlatSumTree tree(10, InstructionSet::portable);
  const int64_t index = 3;
  const float bad = -1;
  tree.set(&index, &bad, 1);
  EXPECT_NE(tree.check(), "");
}

}  // namespace
