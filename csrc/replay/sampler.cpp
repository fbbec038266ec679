#include "replay/sampler.h"

#include <cstring>

#include "replay/power.h"
#include "rng.h"

namespace {

constexpr int64_t kAhead = 16;  // rows asked for before they are copied

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
  const Pieces rows = store.pieces(task);
  for (int64_t i = 0; i < n && i < kAhead; ++i) rows.fetch(row[i]);
  const int64_t oldest = store.row_of(store.begin(task));
  for (int64_t i = 0; i < n; ++i) {
    if (i + kAhead < n) rows.fetch(row[i + kAhead]);
    const float* source = store.row(task, row[i]);
    const int64_t to = at + i;
    store.copy_observation(observation, frame, task, row[i], source, batch.observation + to * observation);
    copy_floats(batch.action + to * action, store.action(source), action);
    Tail tail{row[i], source, store.reward(source), returns.discount};
    if (returns.steps > 1) walk(store, returns, task, tail);
    if (batch.next == 0)
      store.copy_next_observation(observation, frame, task, tail.at, tail.row,
                                  batch.next_observation + to * observation);
    else
      store.copy_next_frames(frame, task, tail.at, tail.row, batch.next,
                             batch.next_observation + to * batch.next);
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

// The numbers of lanes first, first + 1, ..., eight Philox blocks side by side; `first` is a multiple of 16.
constexpr int64_t kLanes = 16;

MTRL_BODY void draw_bits(const Stream& stream, uint32_t task, int64_t first, uint64_t (&bits)[kLanes]) {
  using Words = uint64_t __attribute__((vector_size(kLanes / 2 * sizeof(uint64_t))));
  const Words blocks{0, 1, 2, 3, 4, 5, 6, 7};
  Words c0 = blocks + static_cast<uint64_t>(first / 2), c1 = Words{} + task,
        c2 = Words{} + (stream.draw & 0xFFFFFFFF), c3 = Words{} + (stream.draw >> 32);
  rng::philox_rounds(stream.seed, c0, c1, c2, c3);
  c0 |= c1 << 32;
  c2 |= c3 << 32;
  for (int64_t block = 0; block < kLanes / 2; ++block) {
    bits[2 * block] = c0[block];
    bits[2 * block + 1] = c2[block];
  }
}

MTRL_BODY void draw_offsets_body(const Stream& stream, uint32_t task, int64_t size, int64_t n,
                                 int64_t* offset) {
  uint64_t bits[kLanes];
  for (int64_t first = 0; first < n; first += kLanes) {
    draw_bits(stream, task, first, bits);
    for (int64_t lane = 0; lane < kLanes && first + lane < n; ++lane)
      offset[first + lane] = rng::below(bits[lane], size);
  }
}

// `step` is how far apart the masses' first points are, and `width` from how much each is drawn. There is
// room for `n` masses rounded up to a multiple of kLanes.
MTRL_BODY void draw_masses_body(const Stream& stream, uint32_t task, int64_t n, double step, double width,
                                double* mass) {
  uint64_t bits[kLanes];
  for (int64_t first = 0; first < n; first += kLanes) {
    draw_bits(stream, task, first, bits);
    for (int64_t lane = 0; lane < kLanes; ++lane)
      mass[first + lane] = static_cast<double>(first + lane) * step + rng::unit(bits[lane]) * width;
  }
}

MTRL_DISPATCH(draw_offsets, (const Stream& stream, uint32_t task, int64_t size, int64_t n, int64_t* offset),
              (stream, task, size, n, offset))
MTRL_DISPATCH(draw_masses,
              (const Stream& stream, uint32_t task, int64_t n, double step, double width, double* mass),
              (stream, task, n, step, width, mass))

}  // namespace

void draw_uniform(InstructionSet set, const Stream& stream, uint32_t task, int64_t size, int64_t n,
                  int64_t* offset) {
  draw_offsets_for(set)(stream, task, size, n, offset);
}

void draw_stratified(InstructionSet set, const Stream& stream, uint32_t task, const FlatSumTree& tree,
                     const Pieces& rows, int64_t n, int64_t* leaf, std::vector<double>& scratch) {
  scratch.resize(n + kLanes);
  const double stratum = tree.total() / static_cast<double>(n);
  draw_masses_for(set)(stream, task, n, stratum, stratum, scratch.data());
  tree.find(scratch.data(), n, leaf, rows);
}

void draw_independent(InstructionSet set, const Stream& stream, uint32_t task, const FlatSumTree& tree,
                      const Pieces& rows, int64_t n, int64_t* leaf, std::vector<double>& scratch) {
  scratch.resize(n + kLanes);
  draw_masses_for(set)(stream, task, n, 0, tree.total(), scratch.data());
  tree.find(scratch.data(), n, leaf, rows);
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
