#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "replay/arena.h"

// One row per transition in a ring per task. A row is 64-byte aligned:
//   observation, action, reward                 floats
//   flags, final                                uint32
// The next observation is the following row's, so it is stored once. Where an episode ends (or the next
// observation turns out to be another than was announced) it is kept beside the ring instead, as one of the
// task's `finals`, and the row says which. The ring has one row more than the capacity: the one after the
// newest transition, which holds its next observation and is never sampled.
//
// A transition is named by its task and sequence number (0, 1, ... in order of arrival); the newest
// `capacity` of them are kept, always exactly, however long the episodes are. Not safe from several threads.
class TransitionStore {
 public:
  struct Shape {
    int64_t tasks, capacity, observation, action;  // capacity: transitions per task; sizes in floats
  };
  enum Flags : uint32_t {
    kTerminated = 1,
    kTruncated = 2,
    kLast = 4
  };  // kLast: the next observation is a final

  TransitionStore(const Shape& shape, const std::string& path);  // path: file-backed rows; empty: memory

  const Shape& shape() const { return shape_; }
  int64_t rows() const { return shape_.capacity + 1; }  // per task
  int64_t stride() const { return stride_; }            // floats per row
  int64_t begin(int64_t task) const { return rings_[task].begin; }
  int64_t end(int64_t task) const { return rings_[task].end; }
  int64_t size(int64_t task) const { return rings_[task].end - rings_[task].begin; }
  int64_t row_of(int64_t sequence) const { return sequence % rows(); }
  int64_t bytes_per_row() const { return stride_ * static_cast<int64_t>(sizeof(float)); }

  // Appends one transition; beyond the capacity the oldest goes. About 0.1 us.
  void add(int64_t task, const float* observation, const float* action, float reward, bool terminated,
           bool truncated, const float* next_observation);

  const float* row(int64_t task, int64_t row) const { return rows_ + (task * rows() + row) * stride_; }
  uint32_t flags(const float* row) const { return word(row, 0); }
  float reward(const float* row) const { return row[shape_.observation + shape_.action]; }
  const float* action(const float* row) const { return row + shape_.observation; }
  // `row` is the task's row number `at`, of a live transition.
  const float* next_observation(int64_t task, int64_t at, const float* row) const {
    if (__builtin_expect(word(row, 0) & kLast, 0)) return final_of(rings_[task], word(row, 1));
    return at + 1 == rows() ? row - at * stride_ : row + stride_;
  }

  // Empty, or what is wrong.
  std::string check() const;

  // For checkpoint.cpp: the parts of a task's ring that are not derived.
  struct Ring {
    int64_t begin = 0, end = 0;                 // sequence numbers of the oldest and one past the newest
    bool open = false;                          // the row after the newest holds its next observation
    uint32_t finals_begin = 0, finals_end = 0;  // numbers of the kept finals
    std::vector<float> finals;                  // a ring; its length is a power of two of observations, or 0
  };
  const Ring& ring(int64_t task) const { return rings_[task]; }
  // Rows that matter, as at most two runs of row numbers [first, last): the live ones and an open one after
  // them.
  struct Runs {
    int64_t first[2], last[2];
  };
  Runs runs_of(const Ring& ring) const;
  float* mutable_row(int64_t task, int64_t row) { return rows_ + (task * rows() + row) * stride_; }
  // The rows are in place; `finals` are observations, of which the first has number `first`.
  void restore(int64_t task, Ring ring, uint32_t first, uint32_t n, const void* finals);
  const float* final_of(const Ring& ring, uint32_t number) const {
    const auto mask = static_cast<uint32_t>(ring.finals.size() / shape_.observation) - 1;
    return ring.finals.data() + (number & mask) * shape_.observation;
  }

 private:
  uint32_t word(const float* row, int which) const;
  void set_words(float* row, uint32_t flags, uint32_t final) const;
  uint32_t push_final(Ring& ring, const float* observation);

  Shape shape_;
  int64_t stride_;
  Arena arena_;
  float* rows_;
  std::vector<Ring> rings_;
};
