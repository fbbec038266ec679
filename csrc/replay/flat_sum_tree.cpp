#include "replay/flat_sum_tree.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace {

constexpr int64_t kFan = 16;
constexpr int64_t kBlock = kFan * kFan;

// Lanes of GCC's and Clang's vector extension, the same arithmetic on all. Pairs of doubles, for every
// machine has them: what is wider than a register is taken apart badly.
using Double2 = double __attribute__((vector_size(16), aligned(8)));
using Words2 = uint64_t __attribute__((vector_size(16), aligned(8)));
using Float2 = float __attribute__((vector_size(8), aligned(4)));
using Float4 = float __attribute__((vector_size(16), aligned(4)));
using Float16 = float __attribute__((vector_size(64), aligned(4)));

MTRL_BODY void load(const double* from, Double2& two) { std::memcpy(&two, from, sizeof two); }
MTRL_BODY void load(const float* from, Double2& two) {
  Float2 floats;
  std::memcpy(&floats, from, sizeof floats);
  two = __builtin_convertvector(floats, Double2);
}

// cumulative[r][q]: the sum of children 0..r of quarter q and of all quarters before it; l_r holds q = 0 and
// 1, h_r 2 and 3. Quarter q is children q, 4 + q, 8 + q, 12 + q.
struct Cumulative {
  Double2 l0, h0, l1, h1, l2, h2, l3, h3;
};

template <class T>
MTRL_BODY void accumulate(const T* child, Cumulative& sum) {
  load(child, sum.l0);
  load(child + 2, sum.h0);
  load(child + 4, sum.l1);
  load(child + 6, sum.h1);
  load(child + 8, sum.l2);
  load(child + 10, sum.h2);
  load(child + 12, sum.l3);
  load(child + 14, sum.h3);
  sum.l1 += sum.l0;
  sum.h1 += sum.h0;
  sum.l2 += sum.l1;
  sum.h2 += sum.h1;
  sum.l3 += sum.l2;
  sum.h3 += sum.h2;
  const double one = sum.l3[0], two = one + sum.l3[1], three = two + sum.h3[0];
  const Double2 low = {0, one}, high = {two, three};
  sum.l0 += low;
  sum.l1 += low;
  sum.l2 += low;
  sum.l3 += low;
  sum.h0 += high;
  sum.h1 += high;
  sum.h2 += high;
  sum.h3 += high;
}

template <class T>
MTRL_BODY double sum16(const T* child) {
  Cumulative sum;
  accumulate(child, sum);
  return sum.h3[1];
}

MTRL_BODY float max16(const float* child) {
  Float4 v[4];
  std::memcpy(v, child, sizeof v);
  v[0] = v[0] > v[1] ? v[0] : v[1];
  v[2] = v[2] > v[3] ? v[2] : v[3];
  v[0] = v[0] > v[2] ? v[0] : v[2];
  const float a = v[0][0] > v[0][1] ? v[0][0] : v[0][1], b = v[0][2] > v[0][3] ? v[0][2] : v[0][3];
  return a > b ? a : b;
}

// Counts where a sum is at most the limit, and takes that sum. In bits: g++ turns selections into branches
// per lane where the instruction set has none.
MTRL_BODY void pass(const Double2& sum, const Double2& limit, Words2& passed, Double2& most) {
  const auto here = (Words2)(sum <= limit);
  passed -= here;
  most = (Double2)(((Words2)sum & here) | ((Words2)most & ~here));
}

// The place in its node of the k-th child in the order of summation.
MTRL_BODY uint32_t place(uint32_t k) { return 4 * (k % 4) + k / 4; }

// One step down the tree. With c_1 <= ... <= c_16 the cumulative sums of the children's weights:
//   k = the number of c_j <= mass, so child k + 1 is the first with c_j > mass;
//   mass <- mass - c_k (c_0 = 0), the mass inside that child.
// c_k is the greatest of the sums that were passed, so both come from one comparison per sum and no branch.
//
// The child whose cumulative sum first exceeds `mass`, which becomes the mass inside that child. A child of
// weight zero adds nothing to the sum before it, so it is never the first to exceed anything; where rounding
// left `mass` at or above the whole sum, the last child with weight is taken.
template <class T>
MTRL_BODY int64_t descend(const T* child, double& mass) {
  Cumulative sum;
  accumulate(child, sum);
  const Double2 limit = {mass, mass};
  Words2 low{}, high{};             // per lane, how many sums were passed
  Double2 most_low{}, most_high{};  // and the greatest of them
  pass(sum.l0, limit, low, most_low);
  pass(sum.h0, limit, high, most_high);
  pass(sum.l1, limit, low, most_low);
  pass(sum.h1, limit, high, most_high);
  pass(sum.l2, limit, low, most_low);
  pass(sum.h2, limit, high, most_high);
  pass(sum.l3, limit, low, most_low);
  pass(sum.h3, limit, high, most_high);
  low += high;
  auto k = static_cast<uint32_t>(low[0] + low[1]);
  most_low = most_high > most_low ? most_high : most_low;
  mass -= most_low[0] > most_low[1] ? most_low[0] : most_low[1];
  if (__builtin_expect(k == kFan, 0)) {  // rounding: back to the last child with weight
    mass = 0;
    do --k;
    while (k > 0 && !(child[place(k)] > 0));
  }
  return place(k);
}

struct Levels {
  const float* leaves;
  const double *sums16, *sums256, *prefix;  // prefix[-1] is 0
  int64_t blocks;
};

// The first block whose prefix exceeds `mass`; the last one with weight where rounding left none.
MTRL_BODY int64_t find_block(const Levels& tree, double mass) {
  const double* at = tree.prefix;
  int64_t n = tree.blocks;
  while (n > 1) {
    const int64_t half = n / 2;
    at += half &
          -static_cast<int64_t>(at[half - 1] <= mass);  // no branch: it would be mispredicted half the time
    n -= half;
  }
  int64_t block = at - tree.prefix;
  if (__builtin_expect(*at <= mass, 0))
    while (block > 0 && !(tree.sums256[block] > 0)) --block;
  return block;
}

// One level after the other for all masses, so that the next level's memory is on its way while others are
// searched.
MTRL_BODY void find_body(const Levels& tree, const Pieces& rows, double* mass, int64_t n, int64_t* leaf) {
  for (int64_t i = 0; i < n; ++i) {
    leaf[i] = find_block(tree, mass[i]);
    mass[i] -= tree.prefix[leaf[i] - 1];
    __builtin_prefetch(tree.sums16 + leaf[i] * kFan);
    __builtin_prefetch(tree.sums16 + leaf[i] * kFan + 8);
  }
  for (int64_t i = 0; i < n; ++i) {
    leaf[i] = leaf[i] * kFan + descend(tree.sums16 + leaf[i] * kFan, mass[i]);
    __builtin_prefetch(tree.leaves + leaf[i] * kFan);
  }
  for (int64_t i = 0; i < n; ++i) {
    double rest = mass[i];
    leaf[i] = leaf[i] * kFan + descend(tree.leaves + leaf[i] * kFan, rest);
    rows.fetch(leaf[i]);
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

// Of `n` numbers, n a multiple of 16.
MTRL_BODY void greatest_body(const float* value, int64_t n, float& greatest) {
  Float16 most{};
  for (int64_t i = 0; i < n; i += kFan) {
    Float16 next;
    std::memcpy(&next, value + i, sizeof next);
    most = next > most ? next : most;
  }
  float lanes[kFan];
  std::memcpy(lanes, &most, sizeof lanes);
  greatest = max16(lanes);
}

MTRL_DISPATCH(greatest, (const float* value, int64_t n, float& greatest), (value, n, greatest))
MTRL_DISPATCH(find, (const Levels& tree, const Pieces& rows, double* mass, int64_t n, int64_t* leaf),
              (tree, rows, mass, n, leaf))
MTRL_DISPATCH(update_parents, (const Parents& tree, const int64_t* index, int64_t n), (tree, index, n))

}  // namespace

FlatSumTree::FlatSumTree(int64_t leaves, InstructionSet set, float* memory) : size_(leaves), set_(set) {
  const int64_t blocks = padded(leaves) / kBlock;
  if (memory == nullptr) own_.resize(blocks * kBlock);
  leaves_ = memory == nullptr ? own_.data() : memory;
  sums16_.resize(blocks * kFan);
  maxima16_.resize(blocks * kFan);
  sums256_.resize(blocks);
  maxima256_.resize((blocks + kFan - 1) / kFan * kFan);
  prefix_.resize(blocks + 1);
}

void FlatSumTree::put(int64_t index, float weight) {
  float& leaf = leaves_[index];
  if (weight >= greatest_) {  // no leaf is above greatest_, known or not
    greatest_ = weight;
    greatest_known_ = true;
  } else if (leaf == greatest_) {
    greatest_known_ = false;
  }
  leaf = weight;
}

void FlatSumTree::update_parents(const int64_t* index, int64_t n) {
  update_parents_for(set_)({leaves_, sums16_.data(), sums256_.data(), maxima16_.data(), maxima256_.data()},
                           index, n);
}

void FlatSumTree::set(const int64_t* index, const float* weight, int64_t n) {
  for (int64_t i = 0; i < n; ++i) put(index[i], weight[i]);
  update_parents(index, n);
}

void FlatSumTree::enter(int64_t index, int64_t left) {
  put(left, 0);
  if (!greatest_known_) update_parents(&left, 1);
  const float most = greatest();
  put(index, most > 0 ? most : 1);
  const int64_t both[2] = {left, index};
  update_parents(both, 2);
}

void FlatSumTree::fill(const float* weight) {
  std::copy(weight, weight + size_, leaves_);
  rebuild();
}

void FlatSumTree::rebuild() {
  const Parents tree{leaves_, sums16_.data(), sums256_.data(), maxima16_.data(), maxima256_.data()};
  for (int64_t group = 0; group < static_cast<int64_t>(sums16_.size()); ++group) update_group(tree, group);
  for (int64_t block = 0; block < static_cast<int64_t>(sums256_.size()); ++block) update_block(tree, block);
  greatest_known_ = false;
  greatest();  // an upper bound on all leaves from now on
}

void FlatSumTree::prepare() {
  double sum = 0;
  for (size_t block = 0; block < sums256_.size(); ++block) prefix_[block + 1] = sum += sums256_[block];
}

float FlatSumTree::greatest() {
  if (!greatest_known_)
    greatest_for(set_)(maxima256_.data(), static_cast<int64_t>(maxima256_.size()), greatest_);
  greatest_known_ = true;
  return greatest_;
}

float FlatSumTree::least_positive() const {
  float least = std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < size_; ++i) least = leaves_[i] > 0 && leaves_[i] < least ? leaves_[i] : least;
  return std::isinf(least) ? 0 : least;
}

void FlatSumTree::find(double* mass, int64_t n, int64_t* leaf, const Pieces& rows) const {
  const auto blocks = static_cast<int64_t>(sums256_.size());
  find_for(set_)({leaves_, sums16_.data(), sums256_.data(), prefix_.data() + 1, blocks}, rows, mass, n, leaf);
}

std::string FlatSumTree::check() const {
  for (int64_t i = 0; i < padded(size_); ++i)
    if (!(leaves_[i] >= 0) || std::isinf(leaves_[i]) || (i >= size_ && leaves_[i] != 0))
      return "leaf " + std::to_string(i) + " is " + std::to_string(leaves_[i]);
  FlatSumTree again(size_, set_, leaves_);
  again.rebuild();
  if (sums16_ != again.sums16_ || maxima16_ != again.maxima16_)
    return "a sum or maximum of 16 is not its leaves'";
  if (sums256_ != again.sums256_ || maxima256_ != again.maxima256_)
    return "a sum or maximum of 256 is not its leaves'";
  if (greatest_known_ && greatest_ != again.greatest()) return "the greatest leaf is wrong";
  return "";
}
