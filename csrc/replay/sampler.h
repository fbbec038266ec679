#pragma once

#include <cstdint>
#include <vector>

#include "cpu_features.h"
#include "replay/flat_sum_tree.h"
#include "replay/transition_store.h"

// Where a batch goes: dense arrays of `rows` rows, owned by the caller. Rows are ordered by task. Of a next
// observation the first `next` floats are given, all where that is 0: of stacked rows the frame, or its
// previous one too where a return is of several steps, is all that is not in the observation.
struct BatchView {
  int64_t rows;
  float *observation, *action, *reward, *terminated, *next_observation;
  int64_t* task;
  float* weight;
  int64_t* id;
  float* discount;
  int64_t next = 0;
};

enum class Mode { uniform, uniform_shared, prioritized, prioritized_independent };
inline bool is_prioritized(Mode mode) {
  return mode == Mode::prioritized || mode == Mode::prioritized_independent;
}

// What gets importance weight 1: the least probable transition of the batch, of its task's part of the batch,
// or of all that could be drawn; or none does, and weights are (N P) ^ -beta as they are.
enum class Normalization { batch, task, buffer, none };

// Returns over `steps` transitions: r0 + discount r1 + ...
struct Returns {
  int64_t steps = 1;
  float discount = 1;
};

// A transition's name outside: the task in the upper 16 bits, its sequence number in the lower 48.
inline int64_t make_id(int64_t task, int64_t sequence) { return (task << 48) | sequence; }
inline int64_t task_of(int64_t id) { return id >> 48; }
inline int64_t sequence_of(int64_t id) { return id & ((int64_t{1} << 48) - 1); }

// Which numbers a draw takes: they are a function of these two, the task and the lane in the task's part of
// the batch.
struct Stream {
  uint64_t seed, draw;
};

// Offsets from the task's oldest transition, uniform over its `size` transitions, with replacement.
void draw_uniform(InstructionSet set, const Stream& stream, uint32_t task, int64_t size, int64_t n,
                  int64_t* offset);

// The stream's "task" from which uniform_shared draws its one list of offsets for all tasks.
constexpr uint32_t kShared = 0xFFFFFFFF;

// Leaves of `tree`, one per stratum: the j-th of n equal parts of the total mass gives the j-th leaf. Needs
// tree.prepare() and a positive total. `scratch` is resized. `rows` are asked for as they are drawn.
void draw_stratified(InstructionSet set, const Stream& stream, uint32_t task, const FlatSumTree& tree,
                     const Pieces& rows, int64_t n, int64_t* leaf, std::vector<double>& scratch);

// The same without strata: independent draws.
void draw_independent(InstructionSet set, const Stream& stream, uint32_t task, const FlatSumTree& tree,
                      const Pieces& rows, int64_t n, int64_t* leaf, std::vector<double>& scratch);

// Copies rows row[0..n) of `task` to rows at, at + 1, ... of `batch`: everything but the weight. Some 30 ns
// a row, most of it waiting for memory. A return of several steps ends early where the episode was terminated
// or truncated and at the newest transition: after m steps the next observation is that of the m-th, and
// discount ^ m is given.
void gather(InstructionSet set, const TransitionStore& store, const Returns& returns, int64_t task,
            const int64_t* row, int64_t n, int64_t at, const BatchView& batch);

// weight[i] = (density[i] / least) ^ -beta; Schaul et al. 2016, section 3.4, with density = N P(i) and
// `least` the density that gets weight 1.
void importance_weights(InstructionSet set, const double* density, int64_t n, double least, double beta,
                        float* weight, std::vector<double>& scratch);
