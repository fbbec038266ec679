#include "replay/flat_sum_tree.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

constexpr int64_t kFan = 16;
constexpr int64_t kBlock = kFan * kFan;

// cumulative[4 r + q]: the sum of children 0..r of quarter q and of all quarters before it. Quarter q is
// children q, 4 + q, 8 + q, 12 + q.
template <class T>
MTRL_BODY void accumulate(const T* child, double* cumulative) {
  for (int q = 0; q < 4; ++q) cumulative[q] = static_cast<double>(child[q]);
  for (int r = 1; r < 4; ++r)
    for (int q = 0; q < 4; ++q)
      cumulative[4 * r + q] = cumulative[4 * (r - 1) + q] + static_cast<double>(child[4 * r + q]);
  double before[4] = {0, 0, 0, 0};
  for (int q = 1; q < 4; ++q) before[q] = before[q - 1] + cumulative[12 + q - 1];
  for (int r = 0; r < 4; ++r)
    for (int q = 0; q < 4; ++q) cumulative[4 * r + q] += before[q];
}

template <class T>
MTRL_BODY double sum16(const T* child) {
  double cumulative[16];
  accumulate(child, cumulative);
  return cumulative[15];
}

MTRL_BODY float max16(const float* child) {
  float eight[8], four[4];
  for (int i = 0; i < 8; ++i) eight[i] = child[i] > child[i + 8] ? child[i] : child[i + 8];
  for (int i = 0; i < 4; ++i) four[i] = eight[i] > eight[i + 4] ? eight[i] : eight[i + 4];
  const float a = four[0] > four[2] ? four[0] : four[2], b = four[1] > four[3] ? four[1] : four[3];
  return a > b ? a : b;
}

// The child whose cumulative sum first exceeds `mass`, which becomes the mass inside that child. A child of
// weight zero adds nothing to the sum before it, so it is never the first to exceed anything; where rounding
// left `mass` at or above the whole sum, the last child with weight is taken.
template <class T>
MTRL_BODY int64_t descend(const T* child, double& mass) {
  double cumulative[16], below[4] = {0, 0, 0, 0};
  accumulate(child, cumulative);
  int passed[4] = {0, 0, 0, 0};
  for (int r = 0; r < 4; ++r)
    for (int q = 0; q < 4; ++q) {
      const double sum = cumulative[4 * r + q];
      const bool pass = sum <= mass;
      passed[q] += pass;
      const double candidate = pass ? sum : 0.0;
      below[q] = candidate > below[q] ? candidate : below[q];
    }
  int order = passed[0] + passed[1] + passed[2] + passed[3];
  const double a = below[0] > below[2] ? below[0] : below[2], b = below[1] > below[3] ? below[1] : below[3];
  mass -= a > b ? a : b;
  if (__builtin_expect(order == kFan, 0)) {
    mass = 0;
    do --order;
    while (order > 0 && !(child[4 * (order % 4) + order / 4] > 0));
  }
  return 4 * (order % 4) + order / 4;
}

struct Levels {
  const float* leaves;
  const double *sums16, *sums256, *prefix;
  int64_t blocks;
};

// The first block whose prefix exceeds `mass`; the last one with weight where rounding left none.
MTRL_BODY int64_t find_block(const Levels& tree, double mass) {
  const double* at = tree.prefix;
  int64_t n = tree.blocks;
  while (n > 1) {
    const int64_t half = n / 2;
    at += at[half - 1] <= mass ? half : 0;
    n -= half;
  }
  int64_t block = at - tree.prefix;
  if (__builtin_expect(*at <= mass, 0))
    while (block > 0 && !(tree.sums256[block] > 0)) --block;
  return block;
}

MTRL_BODY void find_body(const Levels& tree, const double* mass, int64_t n, int64_t* leaf) {
  for (int64_t i = 0; i < n; ++i) {
    double rest = mass[i];
    const int64_t block = find_block(tree, rest);
    rest -= block > 0 ? tree.prefix[block - 1] : 0.0;
    const int64_t group = block * kFan + descend(tree.sums16 + block * kFan, rest);
    leaf[i] = group * kFan + descend(tree.leaves + group * kFan, rest);
  }
}

struct Parents {
  const float* leaves;
  double *sums16, *sums256;
  float *maxima16, *maxima256;
};

MTRL_BODY void update_group(const Parents& tree, int64_t group) {
  tree.sums16[group] = sum16(tree.leaves + group * kFan);
  tree.maxima16[group] = max16(tree.leaves + group * kFan);
}

MTRL_BODY void update_block(const Parents& tree, int64_t block) {
  tree.sums256[block] = sum16(tree.sums16 + block * kFan);
  tree.maxima256[block] = max16(tree.maxima16 + block * kFan);
}

MTRL_BODY void update_parents_body(const Parents& tree, const int64_t* index, int64_t n) {
  for (int64_t i = 0, last = -1; i < n; ++i) {
    const int64_t group = index[i] / kFan;
    if (group != last) update_group(tree, group);
    last = group;
  }
  for (int64_t i = 0, last = -1; i < n; ++i) {
    const int64_t block = index[i] / kBlock;
    if (block != last) update_block(tree, block);
    last = block;
  }
}

MTRL_DISPATCH(find, (const Levels& tree, const double* mass, int64_t n, int64_t* leaf), (tree, mass, n, leaf))
MTRL_DISPATCH(update_parents, (const Parents& tree, const int64_t* index, int64_t n), (tree, index, n))

}  // namespace

FlatSumTree::FlatSumTree(int64_t leaves, InstructionSet set) : size_(leaves), set_(set) {
  const int64_t blocks = std::max<int64_t>(1, (leaves + kBlock - 1) / kBlock);
  leaves_.resize(blocks * kBlock);
  sums16_.resize(blocks * kFan);
  maxima16_.resize(blocks * kFan);
  sums256_.resize(blocks);
  maxima256_.resize(blocks);
  prefix_.resize(blocks);
}

void FlatSumTree::set(const int64_t* index, const float* weight, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float& leaf = leaves_[index[i]];
    if (weight[i] >= greatest_)
      greatest_ = weight[i];
    else if (leaf == greatest_)
      greatest_known_ = false;
    leaf = weight[i];
  }
  update_parents_for(set_)(
      {leaves_.data(), sums16_.data(), sums256_.data(), maxima16_.data(), maxima256_.data()}, index, n);
}

void FlatSumTree::fill(const float* weight) {
  std::copy(weight, weight + size_, leaves_.begin());
  rebuild();
}

void FlatSumTree::rebuild() {
  const Parents tree{leaves_.data(), sums16_.data(), sums256_.data(), maxima16_.data(), maxima256_.data()};
  for (int64_t group = 0; group < static_cast<int64_t>(sums16_.size()); ++group) update_group(tree, group);
  for (int64_t block = 0; block < static_cast<int64_t>(sums256_.size()); ++block) update_block(tree, block);
  greatest_known_ = false;
}

void FlatSumTree::prepare() {
  double sum = 0;
  for (size_t block = 0; block < sums256_.size(); ++block) prefix_[block] = sum += sums256_[block];
}

float FlatSumTree::greatest() {
  if (!greatest_known_) greatest_ = *std::max_element(maxima256_.begin(), maxima256_.end());
  greatest_known_ = true;
  return greatest_;
}

float FlatSumTree::least_positive() const {
  float least = std::numeric_limits<float>::infinity();
  for (float leaf : leaves_) least = leaf > 0 && leaf < least ? leaf : least;
  return std::isinf(least) ? 0 : least;
}

void FlatSumTree::find(const double* mass, int64_t n, int64_t* leaf) const {
  const auto blocks = static_cast<int64_t>(sums256_.size());
  find_for(set_)({leaves_.data(), sums16_.data(), sums256_.data(), prefix_.data(), blocks}, mass, n, leaf);
}

std::string FlatSumTree::check() const {
  for (int64_t i = 0; i < static_cast<int64_t>(leaves_.size()); ++i)
    if (!(leaves_[i] >= 0) || std::isinf(leaves_[i]) || (i >= size_ && leaves_[i] != 0))
      return "leaf " + std::to_string(i) + " is " + std::to_string(leaves_[i]);
  FlatSumTree again = *this;
  again.rebuild();
  if (sums16_ != again.sums16_ || maxima16_ != again.maxima16_)
    return "a sum or maximum of 16 is not its leaves'";
  if (sums256_ != again.sums256_ || maxima256_ != again.maxima256_)
    return "a sum or maximum of 256 is not its leaves'";
  if (greatest_known_ && greatest_ != again.greatest()) return "the greatest leaf is wrong";
  return "";
}
