#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "pieces.h"
#include "replay/arena.h"

// Copies n floats in the widest registers that the caller's instruction set has; the last two may overlap.
MTRL_BODY void copy_floats(float* to, const float* from, int64_t n) {
  using Lanes = float __attribute__((vector_size(64), aligned(4)));
  constexpr int64_t kLanes = sizeof(Lanes) / sizeof(float);
  if (n < kLanes) {
    std::memcpy(to, from, n * sizeof(float));
    return;
  }
  Lanes lanes;
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) {
    std::memcpy(&lanes, from + i, sizeof lanes);
    std::memcpy(to + i, &lanes, sizeof lanes);
  }
  if (n % kLanes == 0) return;
  std::memcpy(&lanes, from + n - kLanes, sizeof lanes);
  std::memcpy(to + n - kLanes, &lanes, sizeof lanes);
}

// A task's ring in memory of another's, full rows only: `row` [rows, stride], and the kept next observation
// of row i in final[i] of [rows, observation]; `leaves` [rows] where prioritized.
struct RingImage {
  // begin, end, open of TransitionStore::Ring; then a transition and the number of the first observation kept
  // at or after it. Those two say how the last image numbered its kept observations, so that a settled row
  // has the same bytes in the next one; zeros at first.
  int64_t* numbers;
  float *row, *final, *leaves;
};

// One row per transition in a ring per task.
//
// Full rows, 64-byte aligned:  observation, action, reward (floats), flags, number of the final (uint32).
// The next observation is the following row's, so it is stored once. Where an episode ends (or the next
// observation turns out to be another than was announced) it is kept beside the ring instead, among the
// task's `kept` observations, and the row says which.
//
// Stacked rows, for observations that are [frame, previous frame, goal]:  frame, action, reward, flags and
// run (uint32): 96 bytes for Meta-World. The previous frame is the row before's; the goal, the previous frame
// of the first row and the frame after the last one are kept once per run of transitions that follow each
// other. What does not fit this is refused (`fits`), so nothing is lost.
//
// The ring has one row more than the capacity (two, stacked): the one after the newest transition, which
// holds its next observation (frame) and is never sampled, and the one before the oldest.
//
// A transition is named by its task and sequence number (0, 1, ... in order of arrival); the newest
// `capacity` of them are kept, always exactly, however long the episodes are. Not safe from several threads.
class TransitionStore {
 public:
  struct Shape {
    int64_t tasks, capacity, observation, action;  // capacity: transitions per task; sizes in floats
    int64_t frame = 0;                             // stacked rows of frames of this size; 0: full rows
  };
  // kLast: the next observation is kept beside the ring. kFirst (stacked): the previous frame is.
  enum Flags : uint32_t { kTerminated = 1, kTruncated = 2, kLast = 4, kFirst = 8 };

  TransitionStore(const Shape& shape, const std::string& folder);  // where rows lie in a file; empty: memory

  const Shape& shape() const { return shape_; }
  int64_t rows() const { return shape_.capacity + (shape_.frame > 0 ? 2 : 1); }  // per task
  int64_t stride() const { return stride_; }                                     // floats per row
  int64_t begin(int64_t task) const { return rings_[task].begin; }
  int64_t end(int64_t task) const { return rings_[task].end; }
  int64_t size(int64_t task) const { return rings_[task].end - rings_[task].begin; }
  int64_t row_of(int64_t sequence) const { return sequence % rows(); }
  int64_t bytes_per_row() const { return stride_ * static_cast<int64_t>(sizeof(float)); }

  // Appends one transition; beyond the capacity the oldest goes. About 0.1 us.
  void add(int64_t task, const float* observation, const float* action, float reward, bool terminated,
           bool truncated, const float* next_observation);

  // Whether a transition can be stored: stacked, its two observations must share a frame and the goal, bit
  // for bit.
  bool fits(const float* observation, const float* next_observation) const;

  const float* row(int64_t task, int64_t row) const { return rows_ + (task * rows() + row) * stride_; }
  // What the observations of a task's transitions are read from, by row number: the row, what of the next
  // row is read, and where rows are stacked the row before.
  Pieces pieces(int64_t task) const {
    const int64_t lead = shape_.frame > 0 ? stride_ : 0;
    return {reinterpret_cast<const char*>(row(task, 0) - lead), bytes_per_row(),
            (lead + stride_ + held()) * static_cast<int64_t>(sizeof(float))};
  }
  uint32_t flags(const float* row) const { return word(row, 0) & 15; }
  float reward(const float* row) const { return row[held() + shape_.action]; }
  const float* action(const float* row) const { return row + held(); }
  // The observation of a live transition and the one after it; `row` is the task's row number `at`. The sizes
  // are the shape's: passed so that the compiler may know them.
  void copy_observation(int64_t observation, int64_t frame, int64_t task, int64_t at, const float* row,
                        float* to) const;
  void copy_next_observation(int64_t observation, int64_t frame, int64_t task, int64_t at, const float* row,
                             float* to) const;

  // Of a stacked next observation the first `n` floats: the frame, and where n says so the previous one.
  void copy_next_frames(int64_t frame, int64_t task, int64_t at, const float* row, int64_t n,
                        float* to) const;

  // Empty, or what is wrong.
  std::string check() const;

  // For checkpoint_*.cpp: the parts of a task's ring that are not derived.
  struct Ring {
    int64_t begin = 0, end = 0;             // sequence numbers of the oldest and one past the newest
    bool open = false;                      // the row after the newest holds its next observation
    uint32_t kept_begin = 0, kept_end = 0;  // numbers of the kept observations
    // A ring of observations; its length is a power of two, or 0. Full: finals. Stacked: of every run the
    // frame after its last row, the previous frame of its first, and its goal.
    std::vector<float> kept;
  };
  const Ring& ring(int64_t task) const { return rings_[task]; }
  // Rows that matter, as at most two runs of row numbers [first, last): the live ones and an open one after
  // them.
  struct Runs {
    int64_t first[2], last[2];
  };
  Runs runs_of(const Ring& ring) const;
  float* mutable_row(int64_t task, int64_t row) { return rows_ + (task * rows() + row) * stride_; }
  // The rows are in place; `kept` are `n` observations, of which the first has number ring.kept_begin.
  void restore(int64_t task, Ring ring, uint32_t n, const void* kept);
  // A ring of full rows from an image and back. Both write the last two of the image's numbers. Throws
  // std::invalid_argument for impossible numbers.
  void take_image(int64_t task, const RingImage& image);
  void give_image(int64_t task, const RingImage& image) const;

  // Walks over a ring's live rows, oldest first, and says what is wrong: that a row names a kept observation
  // which is not its own, and the like. Only the numbers of `ring` are read.
  class RowWalk {
   public:
    RowWalk(const TransitionStore& store, const Ring& ring) : store_(store), ring_(ring) {}
    // Null, or what is wrong with the row of this transition; rows that are not live are passed over.
    const char* next(int64_t sequence, const void* row);
    // Null, or what is wrong with the ring, after all live rows.
    const char* end() const;

   private:
    const TransitionStore& store_;
    const Ring& ring_;
    uint32_t kept_ = ring_.kept_begin;  // number that the next row may name
    bool last_ = false;                 // of the row before: its next observation is kept
  };

  const float* kept_of(const Ring& ring, uint32_t number) const {
    const auto mask = static_cast<uint32_t>(ring.kept.size() / shape_.observation) - 1;
    return ring.kept.data() + (number & mask) * shape_.observation;
  }

 private:
  int64_t held() const {
    return shape_.frame > 0 ? shape_.frame : shape_.observation;
  }  // floats of it in a row
  uint32_t word(const float* row, int which) const;
  uint32_t number(const float* row) const { return shape_.frame > 0 ? word(row, 0) >> 4 : word(row, 1); }
  void set_words(float* row, uint32_t flags, uint32_t number) const;
  uint32_t keep(Ring& ring, const float* observation) const;
  int64_t count_kept(int64_t task, int64_t first,
                     int64_t last) const;  // of transitions [first, last), full rows
  void note_numbers(int64_t task, const RingImage& image) const;
  float* mutable_kept(Ring& ring, uint32_t number) const { return const_cast<float*>(kept_of(ring, number)); }
  bool is_announced(int64_t task, const float* observation) const;
  void end_run(Ring& ring, float* row, uint32_t flags, const float* next_observation) const;
  void drop_oldest(int64_t task);
  const float* before(int64_t at, const float* row) const {
    return at == 0 ? row + (rows() - 1) * stride_ : row - stride_;
  }
  const float* after(int64_t at, const float* row) const {
    return at + 1 == rows() ? row - at * stride_ : row + stride_;
  }

  Shape shape_;
  int64_t stride_;
  Arena arena_;
  float* rows_;
  std::vector<Ring> rings_;
};

inline uint32_t TransitionStore::word(const float* row, int which) const {
  uint32_t word;
  std::memcpy(&word, row + held() + shape_.action + 1 + which, sizeof word);
  return word;
}

inline __attribute__((always_inline)) void TransitionStore::copy_observation(int64_t observation,
                                                                             int64_t frame, int64_t task,
                                                                             int64_t at, const float* row,
                                                                             float* to) const {
  if (frame == 0) {
    copy_floats(to, row, observation);
    return;
  }
  const int64_t goal = observation - 2 * frame;
  const float* run = kept_of(rings_[task], number(row));
  copy_floats(to, row, frame);
  copy_floats(to + frame, (flags(row) & kFirst) != 0 ? run + frame : before(at, row), frame);
  copy_floats(to + 2 * frame, run + 2 * frame, goal);
}

inline __attribute__((always_inline)) void TransitionStore::copy_next_frames(int64_t frame, int64_t task,
                                                                             int64_t at, const float* row,
                                                                             int64_t n, float* to) const {
  const bool last = (flags(row) & kLast) != 0;
  copy_floats(to, last ? kept_of(rings_[task], number(row)) : after(at, row), frame);
  if (n > frame) copy_floats(to + frame, row, frame);
}

inline __attribute__((always_inline)) void TransitionStore::copy_next_observation(
    int64_t observation, int64_t frame, int64_t task, int64_t at, const float* row, float* to) const {
  const bool last = (flags(row) & kLast) != 0;
  if (frame == 0) {
    copy_floats(to, last ? kept_of(rings_[task], number(row)) : after(at, row), observation);
    return;
  }
  const int64_t goal = observation - 2 * frame;
  const float* run = kept_of(rings_[task], number(row));
  copy_floats(to, last ? run : after(at, row), frame);
  copy_floats(to + frame, row, frame);
  copy_floats(to + 2 * frame, run + 2 * frame, goal);
}
