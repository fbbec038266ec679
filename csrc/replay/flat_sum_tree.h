#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "pieces.h"

// Non-negative weights with three levels of sums: leaves, sums of 16, sums of 256; the top is scanned.
// Parents are recomputed from their children and never changed by differences, so the tree is a function of
// its leaves: no drift, and the same bits after a reload, on every instruction set.
//
// Inside a node its 16 children are ordered 0 4 8 12, 1 5 9 13, ...: four lanes of a vector add up side by
// side. Only the order of masses depends on it, never the probability of a leaf.
//
// Memory: 4.9 bytes per leaf. Not safe from several threads; may be moved, not copied.
class FlatSumTree {
 public:
  // `memory`, zeroed, for `padded(leaves)` leaves, owned by the caller; without it the tree has its own.
  FlatSumTree(int64_t leaves, InstructionSet set, float* memory = nullptr);
  static int64_t padded(int64_t leaves) { return (leaves + 255) / 256 * 256; }

  FlatSumTree(FlatSumTree&&) = default;

  int64_t size() const { return size_; }
  float leaf(int64_t i) const { return leaves_[i]; }
  const float* leaves() const { return leaves_; }

  // leaf[index[i]] = weight[i] in order, so the last of several wins; then the parents. Needs 0 <= index <
  // size and weights that are finite and not negative.
  void set(const int64_t* index, const float* weight, int64_t n);
  // The leaf `left` goes and leaf `index` comes, at the greatest weight then, or 1 where all are zero.
  void enter(int64_t index, int64_t left);
  // All `size` leaves at once.
  void fill(const float* weight);

  // Prefix sums of the top level; call after the last `set` and before `find`. O(size / 256).
  void prepare();
  double total() const { return prefix_.back(); }  // as of `prepare`
  float greatest();                                // largest leaf, 0 for none
  float least_positive() const;                    // smallest leaf above 0, 0 for none. O(size)

  // For each mass, the leaf whose cumulative sum first exceeds it. Needs `prepare`, total() > 0, 0 <= mass <
  // total(); never returns a leaf of weight zero. `mass` is used up. Changes nothing in the tree. `rows` are
  // what the leaves stand for: a row is on its way from memory while other leaves are searched.
  void find(double* mass, int64_t n, int64_t* leaf, const Pieces& rows = {}) const;

  // Empty, or what is wrong with the tree: a leaf that is no weight, or a parent that is not its children's.
  std::string check() const;

 private:
  void put(int64_t index, float weight);
  void update_parents(const int64_t* index, int64_t n);
  void rebuild();

  int64_t size_;
  InstructionSet set_;
  bool greatest_known_ = true;
  float greatest_ = 0;
  std::vector<float> own_;
  float* leaves_;                // padded with zeros
  std::vector<double> sums16_;   // one per 16 leaves
  std::vector<double> sums256_;  // one per 256 leaves
  std::vector<float> maxima16_;
  std::vector<float> maxima256_;
  std::vector<double> prefix_;  // 0 and the cumulative sums of sums256_
};
