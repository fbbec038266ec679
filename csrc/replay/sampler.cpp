#include "replay/sampler.h"

#include <cstring>

#include "replay/power.h"
#include "rng.h"

namespace {

constexpr int64_t kAhead = 8;  // rows fetched before they are copied

inline void prefetch(const float* first, int64_t bytes) {
  const char* line = reinterpret_cast<const char*>(first);
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(line + at);
}

// O and A are the sizes of an observation and an action in floats where the compiler may know them, else 0.
template <int64_t O, int64_t A>
void gather_sized(const TransitionStore& store, int64_t task, const int64_t* row, int64_t n, int64_t at,
                  const BatchView& batch) {
  const int64_t observation = O ? O : store.shape().observation, action = A ? A : store.shape().action;
  const int64_t span = store.bytes_per_row() + observation * static_cast<int64_t>(sizeof(float));
  const int64_t oldest = store.row_of(store.begin(task));
  for (int64_t i = 0; i < n; ++i) {
    if (i + kAhead < n) prefetch(store.row(task, row[i + kAhead]), span);
    const float* source = store.row(task, row[i]);
    const int64_t to = at + i;
    std::memcpy(batch.observation + to * observation, source, observation * sizeof(float));
    std::memcpy(batch.action + to * action, source + observation, action * sizeof(float));
    std::memcpy(batch.next_observation + to * observation, store.next_observation(task, row[i], source),
                observation * sizeof(float));
    batch.reward[to] = source[observation + action];
    batch.terminated[to] = (store.flags(source) & TransitionStore::kTerminated) ? 1.0f : 0.0f;
    batch.task[to] = task;
    const int64_t offset = row[i] >= oldest ? row[i] - oldest : row[i] - oldest + store.rows();
    batch.id[to] = make_id(task, store.begin(task) + offset);
  }
}

}  // namespace

void draw_uniform(const Stream& stream, uint32_t task, int64_t size, int64_t n, int64_t* offset) {
  for (int64_t lane = 0; lane < n; lane += 2) {
    const rng::Block block = rng::philox(stream.seed, stream.draw, task, static_cast<uint32_t>(lane / 2));
    offset[lane] = rng::below(rng::bits64(block, 0), size);
    if (lane + 1 < n) offset[lane + 1] = rng::below(rng::bits64(block, 1), size);
  }
}

void draw_stratified(const Stream& stream, uint32_t task, const FlatSumTree& tree, int64_t n, int64_t* leaf,
                     std::vector<double>& scratch) {
  scratch.resize(n + 1);
  const double stratum = tree.total() / static_cast<double>(n);
  for (int64_t lane = 0; lane < n; lane += 2) {
    const rng::Block block = rng::philox(stream.seed, stream.draw, task, static_cast<uint32_t>(lane / 2));
    scratch[lane] = (static_cast<double>(lane) + rng::unit(rng::bits64(block, 0))) * stratum;
    scratch[lane + 1] = (static_cast<double>(lane + 1) + rng::unit(rng::bits64(block, 1))) * stratum;
  }
  tree.find(scratch.data(), n, leaf);
}

void gather(const TransitionStore& store, int64_t task, const int64_t* row, int64_t n, int64_t at,
            const BatchView& batch) {
  const bool meta_world = store.shape().observation == 39 && store.shape().action == 4;
  (meta_world ? gather_sized<39, 4> : gather_sized<0, 0>)(store, task, row, n, at, batch);
}

void importance_weights(InstructionSet set, const double* density, int64_t n, double least, double beta,
                        float* weight, std::vector<double>& scratch) {
  scratch.resize(n);
  for (int64_t i = 0; i < n; ++i) scratch[i] = density[i] / least;
  power(set, scratch.data(), n, -beta, scratch.data());
  for (int64_t i = 0; i < n; ++i) weight[i] = static_cast<float>(scratch[i]);
}
