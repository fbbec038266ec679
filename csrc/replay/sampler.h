#pragma once

#include <cstdint>
#include <vector>

#include "cpu_features.h"
#include "replay/flat_sum_tree.h"
#include "replay/transition_store.h"

// Where a batch goes: dense arrays of `rows` rows, owned by the caller. Rows are ordered by task.
struct BatchView {
  int64_t rows;
  float *observation, *action, *reward, *terminated, *next_observation;
  int64_t* task;
  float* weight;
  int64_t* id;
};

enum class Mode { uniform, uniform_shared, prioritized };

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
void draw_uniform(const Stream& stream, uint32_t task, int64_t size, int64_t n, int64_t* offset);

// The stream's "task" from which uniform_shared draws its one list of offsets for all tasks.
constexpr uint32_t kShared = 0xFFFFFFFF;

// Leaves of `tree`, one per stratum: the j-th of n equal parts of the total mass gives the j-th leaf. Needs
// tree.prepare() and a positive total. `scratch` is resized.
void draw_stratified(const Stream& stream, uint32_t task, const FlatSumTree& tree, int64_t n, int64_t* leaf,
                     std::vector<double>& scratch);

// Copies rows row[0..n) of `task` to rows at, at + 1, ... of `batch`: everything but the weight. About 50 ns
// a row, most of it waiting for memory.
void gather(const TransitionStore& store, int64_t task, const int64_t* row, int64_t n, int64_t at,
            const BatchView& batch);

// weight[i] = (density[i] / least) ^ -beta; Schaul et al. 2016, section 3.4, with density = N P(i) and
// `least` the density that gets weight 1.
void importance_weights(InstructionSet set, const double* density, int64_t n, double least, double beta,
                        float* weight, std::vector<double>& scratch);
