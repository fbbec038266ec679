#include "replay/sampler.h"

#include <cstring>

#include "replay/power.h"
#include "rng.h"

namespace {

constexpr int64_t kAhead = 8;  // rows fetched before they are copied

MTRL_BODY void prefetch(const float* first, int64_t bytes) {
  const char* line = reinterpret_cast<const char*>(first);
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(line + at);
}

// The last transition of a return: its row number and row, the return, and the discount of what follows.
struct Tail {
  int64_t at;
  const float* row;
  float reward, discount;
};

void walk(const TransitionStore& store, const Returns& returns, int64_t task, Tail& tail) {
  const int64_t newest = store.row_of(store.end(task) - 1);
  for (int64_t step = 1; step < returns.steps; ++step) {
    if (tail.at == newest || (store.flags(tail.row) & TransitionStore::kLast) != 0) return;
    tail.at = tail.at + 1 == store.rows() ? 0 : tail.at + 1;
    tail.row = store.row(task, tail.at);
    tail.reward += tail.discount * store.reward(tail.row);
    tail.discount *= returns.discount;
  }
}

// The sizes are those of an observation, an action and a stacked row's frame, in floats, known to the
// compiler where it is told them.
MTRL_BODY void gather_sized(const TransitionStore& store, const Returns& returns, int64_t observation,
                            int64_t action, int64_t frame, int64_t task, const int64_t* row, int64_t n,
                            int64_t at, const BatchView& batch) {
  const int64_t span =
      store.bytes_per_row() + (frame > 0 ? frame : observation) * static_cast<int64_t>(sizeof(float));
  const int64_t lead = frame > 0 ? store.stride() : 0;  // a stacked row needs the one before as well
  const int64_t oldest = store.row_of(store.begin(task));
  for (int64_t i = 0; i < n; ++i) {
    if (i + kAhead < n) prefetch(store.row(task, row[i + kAhead]) - lead, span + lead * 4);
    const float* source = store.row(task, row[i]);
    const int64_t to = at + i;
    store.copy_observation(observation, frame, task, row[i], source, batch.observation + to * observation);
    copy_floats(batch.action + to * action, store.action(source), action);
    Tail tail{row[i], source, store.reward(source), returns.discount};
    if (returns.steps > 1) walk(store, returns, task, tail);
    store.copy_next_observation(observation, frame, task, tail.at, tail.row,
                                batch.next_observation + to * observation);
    batch.reward[to] = tail.reward;
    batch.discount[to] = tail.discount;
    batch.terminated[to] = (store.flags(tail.row) & TransitionStore::kTerminated) ? 1.0f : 0.0f;
    batch.task[to] = task;
    const int64_t offset = row[i] >= oldest ? row[i] - oldest : row[i] - oldest + store.rows();
    batch.id[to] = make_id(task, store.begin(task) + offset);
  }
}

MTRL_BODY void gather_body(const TransitionStore& store, const Returns& returns, int64_t task,
                           const int64_t* row, int64_t n, int64_t at, const BatchView& batch) {
  const auto& shape = store.shape();
  const bool meta_world = shape.observation == 39 && shape.action == 4;
  if (meta_world && shape.frame == 0)
    gather_sized(store, returns, 39, 4, 0, task, row, n, at, batch);
  else if (meta_world && shape.frame == 18)
    gather_sized(store, returns, 39, 4, 18, task, row, n, at, batch);
  else
    gather_sized(store, returns, shape.observation, shape.action, shape.frame, task, row, n, at, batch);
}

MTRL_DISPATCH(gather,
              (const TransitionStore& store, const Returns& returns, int64_t task, const int64_t* row,
               int64_t n, int64_t at, const BatchView& batch),
              (store, returns, task, row, n, at, batch))

}  // namespace

void draw_uniform(const Stream& stream, uint32_t task, int64_t size, int64_t n, int64_t* offset) {
  for (int64_t lane = 0; lane < n; lane += 2) {
    const rng::Block block = rng::philox(stream.seed, stream.draw, task, static_cast<uint32_t>(lane / 2));
    offset[lane] = rng::below(rng::bits64(block, 0), size);
    if (lane + 1 < n) offset[lane + 1] = rng::below(rng::bits64(block, 1), size);
  }
}

namespace {

// `step` is how far apart the masses' first points are, and `width` from how much each is drawn.
void draw_masses(const Stream& stream, uint32_t task, const FlatSumTree& tree, int64_t n, double step,
                 double width, int64_t* leaf, std::vector<double>& scratch) {
  scratch.resize(n + 1);
  for (int64_t lane = 0; lane < n; lane += 2) {
    const rng::Block block = rng::philox(stream.seed, stream.draw, task, static_cast<uint32_t>(lane / 2));
    scratch[lane] = static_cast<double>(lane) * step + rng::unit(rng::bits64(block, 0)) * width;
    scratch[lane + 1] = static_cast<double>(lane + 1) * step + rng::unit(rng::bits64(block, 1)) * width;
  }
  tree.find(scratch.data(), n, leaf);
}

}  // namespace

void draw_stratified(const Stream& stream, uint32_t task, const FlatSumTree& tree, int64_t n, int64_t* leaf,
                     std::vector<double>& scratch) {
  const double stratum = tree.total() / static_cast<double>(n);
  draw_masses(stream, task, tree, n, stratum, stratum, leaf, scratch);
}

void draw_independent(const Stream& stream, uint32_t task, const FlatSumTree& tree, int64_t n, int64_t* leaf,
                      std::vector<double>& scratch) {
  draw_masses(stream, task, tree, n, 0, tree.total(), leaf, scratch);
}

void gather(InstructionSet set, const TransitionStore& store, const Returns& returns, int64_t task,
            const int64_t* row, int64_t n, int64_t at, const BatchView& batch) {
  gather_for(set)(store, returns, task, row, n, at, batch);
}

void importance_weights(InstructionSet set, const double* density, int64_t n, double least, double beta,
                        float* weight, std::vector<double>& scratch) {
  scratch.resize(n);
  for (int64_t i = 0; i < n; ++i) scratch[i] = density[i] / least;
  power(set, scratch.data(), n, -beta, scratch.data());
  for (int64_t i = 0; i < n; ++i) weight[i] = static_cast<float>(scratch[i]);
}
