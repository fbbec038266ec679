#include <cfloat>
#include <cmath>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/reduce.h"
#include "cuda/rng.cuh"
#include "replay/flat_sum_tree.cuh"
#include "replay/power_body.h"
#include "replay/replay_buffer.cuh"

namespace {

constexpr int kThreads = 256;
constexpr int kAddThreads = 64;
constexpr int64_t kTerminated = 1, kTruncated = 2, kLast = 4;  // as in transition_store.h
constexpr uint32_t kShared = 0xFFFFFFFF;                       // as in sampler.h

__device__ int64_t thread() { return threadIdx.x; }

// x ^ exponent as power.h has it. A branch: choosing between two results would cost registers, and spill.
__device__ double power_of(double x, double exponent) { return x > 0 ? exp2_of(exponent * log2_of(x)) : 0.0; }

__device__ FlatSumTreeCuda tree_of(const ReplayCuda& r, int64_t task) {
  const int64_t blocks = r.blocks;
  return {blocks,
          r.leaves + task * blocks * 256,
          r.sums16 + task * blocks * 16,
          r.sums256 + task * blocks,
          r.prefix + task * (blocks + 1),
          r.maxima16 + task * blocks * 16,
          r.maxima256 + task * blocks};
}

__device__ float* row_at(const ReplayCuda& r, int64_t task, int64_t row) {
  return r.row + (task * r.rows + row) * r.stride;
}
__device__ float* final_at(const ReplayCuda& r, int64_t task, int64_t row) {
  return r.final + (task * r.rows + row) * r.shape.observation;
}
__device__ int* flags_of(const ReplayCuda& r, float* row) {
  return reinterpret_cast<int*>(row + r.shape.observation + r.shape.action + 1);
}

// The whole block; bytes, not numbers: NaN and -0 come back as they were put in.
__device__ void copy(float* to, const float* from, int64_t n) {
  for (int64_t i = thread(); i < n; i += kAddThreads)
    reinterpret_cast<int*>(to)[i] = reinterpret_cast<const int*>(from)[i];
}

// True where the announced next observation turns out to be another one; the announced one is kept then.
__device__ void keep_announced(const ReplayCuda& r, int64_t task, int64_t at, const float* observation,
                               int* differs) {
  if (thread() == 0) *differs = 0;
  __syncthreads();
  const auto* announced = reinterpret_cast<const int*>(row_at(r, task, at));
  const auto* came = reinterpret_cast<const int*>(observation);
  for (int64_t i = thread(); i < r.shape.observation; i += kAddThreads)
    if (announced[i] != came[i]) *differs = 1;
  __syncthreads();
  if (*differs == 0 || r.open[task] == 0) return;
  const int64_t previous = at == 0 ? r.rows - 1 : at - 1;
  copy(final_at(r, task, previous), row_at(r, task, at), r.shape.observation);
  if (thread() == 0) *flags_of(r, row_at(r, task, previous)) |= kLast;
}

__device__ void write_row(const ReplayCuda& r, const TransitionsCuda& t, int64_t task, int64_t at) {
  const int64_t observation = r.shape.observation, action = r.shape.action;
  float* row = row_at(r, task, at);
  const bool last = t.terminated[task] != 0 || t.truncated[task] != 0;
  copy(row, t.observation + task * observation, observation);
  copy(row + observation, t.action + task * action, action);
  copy(last ? final_at(r, task, at) : row_at(r, task, at + 1 == r.rows ? 0 : at + 1),
       t.next_observation + task * observation, observation);
  if (thread() != 0) return;
  row[observation + action] = t.reward[task];
  *flags_of(r, row) = static_cast<int>((t.terminated[task] != 0 ? kTerminated : 0) |
                                       (t.truncated[task] != 0 ? kTruncated : 0) | (last ? kLast : 0));
}

__device__ void set_leaf(const FlatSumTreeCuda& tree, int64_t leaf, float weight) {
  tree.leaves[leaf] = weight;
  tree.update_group(leaf / 16);
  tree.update_block(leaf / 256);
}

// The leaf `left` goes and leaf `at` comes, at the greatest weight then, or 1 where all are zero.
__device__ void enter(const FlatSumTreeCuda& tree, int64_t at, int64_t left, float* greatest) {
  if (thread() == 0) set_leaf(tree, left, 0.0f);
  __syncthreads();
  float most = 0.0f;
  for (int64_t block = thread(); block < tree.blocks; block += kAddThreads)
    most = tree.maxima256[block] > most ? tree.maxima256[block] : most;
  greatest[thread()] = most;
  for (int64_t half = kAddThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread() < half && greatest[thread() + half] > greatest[thread()])
      greatest[thread()] = greatest[thread() + half];
  }
  if (thread() == 0) set_leaf(tree, at, greatest[0] > 0 ? greatest[0] : 1.0f);
}

__global__ void __launch_bounds__(kAddThreads) add_kernel(ReplayCuda r, TransitionsCuda t) {
  __shared__ int differs;
  __shared__ float greatest[kAddThreads];
  const int64_t task = blockIdx.x, end = r.end[task], at = end % r.rows;
  keep_announced(r, task, at, t.observation + task * r.shape.observation, &differs);
  __syncthreads();
  write_row(r, t, task, at);
  if (r.shape.prioritized) enter(tree_of(r, task), at, at + 1 == r.rows ? 0 : at + 1, greatest);
  if (thread() != 0) return;
  r.open[task] = t.terminated[task] == 0 && t.truncated[task] == 0;
  r.end[task] = end + 1;
  if (end + 1 - r.begin[task] > r.shape.capacity) ++r.begin[task];
}

// Where a batch's rows are in the rings, and what their weights are made of; density is null unless
// prioritized.
struct Drawn {
  int64_t* row;
  double *density, *least;  // least [tasks]: the smallest density of each task's part of the batch (or of the
                            // buffer, where that is the norm), infinity for none
};

__device__ int64_t draw_row(const ReplayCuda& r, const FlatSumTreeCuda& tree, int64_t task, int64_t lane,
                            int64_t n) {
  const auto draw = static_cast<uint64_t>(*r.draws);
  const int64_t oldest = r.begin[task] % r.rows, size = r.end[task] - r.begin[task];
  if (r.shape.prioritized) {
    if (!(tree.total() > 0)) return oldest;
    const double unit =
        rng_cuda::unit(rng_cuda::bits64(r.shape.seed, draw, static_cast<uint32_t>(task), lane));
    const double width = r.shape.independent ? tree.total() : tree.total() / static_cast<double>(n);
    return tree.find((r.shape.independent ? 0.0 : static_cast<double>(lane) * width) + unit * width);
  }
  const uint32_t source = r.shape.shared ? kShared : static_cast<uint32_t>(task);
  const int64_t row = oldest + rng_cuda::below(rng_cuda::bits64(r.shape.seed, draw, source, lane), size);
  return row < r.rows ? row : row - r.rows;
}

__global__ void __launch_bounds__(kThreads) draw_kernel(ReplayCuda r, BatchCuda batch, Drawn drawn) {
  __shared__ double scratch[FlatSumTreeCuda::kTile];
  const int64_t task = blockIdx.x, first = batch.first[task], n = batch.first[task + 1] - first;
  const FlatSumTreeCuda tree = tree_of(r, task);
  if (r.shape.prioritized) tree.prepare(scratch);
  const int64_t begin = r.begin[task], oldest = begin % r.rows;
  const double scale = r.shape.prioritized ? static_cast<double>(r.end[task] - begin) / tree.total() : 0.0;
  const bool whole = r.shape.normalization == NormalizationCuda::buffer;
  double least = INFINITY;
  for (int64_t lane = thread(); lane < n; lane += kThreads) {
    const int64_t row = draw_row(r, tree, task, lane, n), i = first + lane;
    drawn.row[i] = row;
    batch.task[i] = task;
    batch.id[i] = (task << 48) | (begin + (row >= oldest ? row - oldest : row - oldest + r.rows));
    if (!r.shape.prioritized) continue;
    drawn.density[i] = tree.leaves[row] * scale;
    if (!whole) least = drawn.density[i] < least ? drawn.density[i] : least;
  }
  if (!r.shape.prioritized) return;
  if (whole && tree.total() > 0)
    for (int64_t leaf = thread(); leaf < tree.blocks * 256; leaf += kThreads)
      if (const double density = tree.leaves[leaf] * scale; density > 0 && density < least) least = density;
  scratch[thread()] = least;
  for (int64_t half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread() < half && scratch[thread() + half] < scratch[thread()])
      scratch[thread()] = scratch[thread() + half];
  }
  if (thread() == 0) drawn.least[task] = scratch[0];
}

__device__ float weight_of(const ReplayCuda& r, const Drawn& drawn, int64_t i, int64_t task_of_row) {
  if (r.shape.normalization == NormalizationCuda::none)
    return static_cast<float>(power_of(drawn.density[i], -r.shape.beta));
  const bool own = r.shape.normalization == NormalizationCuda::task;
  double least = own ? drawn.least[task_of_row] : INFINITY;
  for (int64_t task = thread() % kWarp; !own && task < r.shape.tasks; task += kWarp)
    least = drawn.least[task] < least ? drawn.least[task] : least;
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    const double other = __shfl_xor_sync(kAllLanes, least, apart);
    least = other < least ? other : least;
  }
  return static_cast<float>(power_of(drawn.density[i] / least, -r.shape.beta));
}

__device__ void copy_lanes(float* to, const float* from, int64_t n) {
  for (int64_t i = thread() % kWarp; i < n; i += kWarp)
    reinterpret_cast<int*>(to)[i] = reinterpret_cast<const int*>(from)[i];
}

// The last transition of a return: its row number, the return, and the discount of what follows.
struct Tail {
  int64_t at;
  float reward, discount;
};

__device__ Tail tail_of(const ReplayCuda& r, int64_t task, int64_t sequence, int64_t at) {
  const int64_t later = r.end[task] - 1 - sequence, result = r.shape.observation + r.shape.action;
  Tail tail{at, row_at(r, task, at)[result], r.shape.discount};
  for (int64_t step = 1; step < r.shape.n_step; ++step) {
    if (step > later || (*flags_of(r, row_at(r, task, tail.at)) & kLast) != 0) break;
    tail.at = tail.at + 1 == r.rows ? 0 : tail.at + 1;
    tail.reward += tail.discount * row_at(r, task, tail.at)[result];
    tail.discount *= r.shape.discount;
  }
  return tail;
}

// One warp, one row of the batch.
__global__ void __launch_bounds__(kThreads) gather_kernel(ReplayCuda r, BatchCuda batch, Drawn drawn) {
  if (blockIdx.x == 0 && thread() == 0) ++*r.draws;  // draw_kernel has ended, and this one reads it nowhere
  const int64_t i = int64_t{blockIdx.x} * (kThreads / kWarp) + thread() / kWarp;
  if (i >= batch.rows) return;
  const int64_t task = batch.task[i], at = drawn.row[i], observation = r.shape.observation,
                action = r.shape.action;
  const float* row = row_at(r, task, at);
  const Tail tail = tail_of(r, task, batch.id[i] & ((int64_t{1} << 48) - 1), at);
  const int flags = *flags_of(r, row_at(r, task, tail.at));
  const float* following = row_at(r, task, tail.at + 1 == r.rows ? 0 : tail.at + 1);
  copy_lanes(batch.observation + i * observation, row, observation);
  copy_lanes(batch.action + i * action, row + observation, action);
  copy_lanes(batch.next_observation + i * observation,
             (flags & kLast) != 0 ? final_at(r, task, tail.at) : following, observation);
  const float weight = r.shape.prioritized ? weight_of(r, drawn, i, task) : 1.0f;
  if (thread() % kWarp != 0) return;
  batch.reward[i] = tail.reward;
  batch.discount[i] = tail.discount;
  batch.terminated[i] = (flags & kTerminated) != 0 ? 1.0f : 0.0f;
  batch.weight[i] = weight;
}

// A positive priority stays drawable, however small its power.
__device__ float positive_weight(double powered) {
  const double most = powered < double{FLT_MAX} ? powered : double{FLT_MAX};
  return static_cast<float>(most > double{FLT_MIN} ? most : double{FLT_MIN});
}

// The leaf's new weight, or -1 for a transition that was overwritten since; anything wrong goes to the
// report.
__global__ void __launch_bounds__(kThreads)
    weigh_kernel(ReplayCuda r, const int64_t* id, const float* priority, int64_t n, float* weight) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + thread();
  if (i >= n) return;
  auto* report = reinterpret_cast<unsigned long long*>(r.report);
  const int64_t task = id[i] >> 48, sequence = id[i] & ((int64_t{1} << 48) - 1);
  const double p = priority[i], powered = power_of(p, r.shape.alpha);
  const bool known = id[i] >= 0 && task < r.shape.tasks && sequence < r.end[task];
  if (!known || !(p >= 0) || p > FLT_MAX || powered > FLT_MAX) {
    atomicMax(&report[1], static_cast<unsigned long long>(n - i));
    return;
  }
  const bool stale = sequence < r.begin[task];
  if (stale) atomicAdd(&report[0], 1ull);
  weight[i] = stale ? -1.0f : p > 0 ? positive_weight(powered) : 0.0f;
}

// One block, one task; of equal ids the last one's weight is taken.
__global__ void __launch_bounds__(kThreads)
    update_kernel(ReplayCuda r, const int64_t* id, const float* weight, int64_t n) {
  if (r.report[1] != 0) return;
  const int64_t task = blockIdx.x;
  const FlatSumTreeCuda tree = tree_of(r, task);
  int* stamp = r.stamp + task * r.rows;
  const auto row_of = [&](int64_t i) {
    const bool own = (id[i] >> 48) == task && weight[i] >= 0;
    return own ? (id[i] & ((int64_t{1} << 48) - 1)) % r.rows : int64_t{-1};
  };
  for (int64_t i = thread(); i < n; i += kThreads)
    if (const int64_t row = row_of(i); row >= 0) atomicMax(&stamp[row], static_cast<int>(i + 1));
  __syncthreads();
  for (int64_t i = thread(); i < n; i += kThreads)
    if (const int64_t row = row_of(i); row >= 0 && stamp[row] == static_cast<int>(i + 1))
      tree.leaves[row] = weight[i];
  __syncthreads();
  for (int64_t i = thread(); i < n; i += kThreads)
    if (const int64_t row = row_of(i); row >= 0) {
      stamp[row] = 0;
      tree.update_group(row / 16);
    }
  __syncthreads();
  for (int64_t i = thread(); i < n; i += kThreads)
    if (const int64_t row = row_of(i); row >= 0) tree.update_block(row / 256);
}

// One block, one task: leaves to the power of `exponent`, then all sums.
__global__ void __launch_bounds__(kThreads) rebuild_kernel(ReplayCuda r, double exponent) {
  const FlatSumTreeCuda tree = tree_of(r, blockIdx.x);
  if (exponent != 1)
    for (int64_t i = thread(); i < tree.blocks * 256; i += kThreads)
      if (tree.leaves[i] > 0) tree.leaves[i] = positive_weight(power_of(tree.leaves[i], exponent));
  __syncthreads();
  for (int64_t i = thread(); i < tree.blocks * 16; i += kThreads) tree.update_group(i);
  __syncthreads();
  for (int64_t i = thread(); i < tree.blocks; i += kThreads) tree.update_block(i);
}

__global__ void clear_report_kernel(ReplayCuda r) { r.report[0] = r.report[1] = 0; }

unsigned blocks_of(int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); }

}  // namespace

ReplayCuda replay_cuda(const ReplayShapeCuda& shape, void* memory) {
  ReplayCuda r{};
  r.shape = shape;
  r.rows = shape.capacity + 1;
  r.stride = (shape.observation + shape.action + 3 + 15) / 16 * 16;
  r.blocks = shape.prioritized ? (r.rows + 255) / 256 : 0;
  auto at = reinterpret_cast<uintptr_t>(memory);
  const auto take = [&](auto*& part, int64_t n) {
    part = reinterpret_cast<std::decay_t<decltype(part)>>(at);
    at += static_cast<uintptr_t>(n * static_cast<int64_t>(sizeof *part) + 255) / 256 * 256;
  };
  const int64_t tasks = shape.tasks, blocks = tasks * r.blocks;
  take(r.begin, tasks);
  take(r.end, tasks);
  take(r.open, tasks);
  take(r.draws, 1);
  take(r.report, 2);
  take(r.prefix, blocks + tasks);
  take(r.sums256, blocks);
  take(r.sums16, blocks * 16);
  take(r.maxima256, blocks);
  take(r.maxima16, blocks * 16);
  take(r.leaves, blocks * 256);
  take(r.stamp, shape.prioritized ? tasks * r.rows : 0);
  take(r.row, tasks * r.rows * r.stride);
  take(r.final, tasks * r.rows * shape.observation);
  return r;
}

int64_t replay_cuda_bytes(const ReplayShapeCuda& shape) {
  const ReplayCuda r = replay_cuda(shape, nullptr);
  const int64_t finals = shape.tasks * r.rows * shape.observation;
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(r.final)) +
         finals * static_cast<int64_t>(sizeof(float));
}

void replay_add_cuda(const ReplayCuda& replay, const TransitionsCuda& transitions, cudaStream_t stream) {
  launch("replay add", add_kernel, blocks_of(replay.shape.tasks, 1), kAddThreads, 0, stream, replay,
         transitions);
}

int64_t replay_sample_workspace(const ReplayCuda& replay, int64_t rows) {
  return (2 * rows + replay.shape.tasks) * static_cast<int64_t>(sizeof(double));
}

void replay_sample_cuda(const ReplayCuda& replay, const BatchCuda& batch, void* workspace,
                        cudaStream_t stream) {
  auto* density = static_cast<double*>(workspace);
  const Drawn drawn{reinterpret_cast<int64_t*>(density + batch.rows + replay.shape.tasks), density,
                    density + batch.rows};
  launch("replay draw", draw_kernel, blocks_of(replay.shape.tasks, 1), kThreads, 0, stream, replay, batch,
         drawn);
  launch("replay gather", gather_kernel, blocks_of(batch.rows, kThreads / kWarp), kThreads, 0, stream, replay,
         batch, drawn);
}

void replay_update_cuda(const ReplayCuda& replay, const int64_t* id, const float* priority, int64_t n,
                        float* workspace, cudaStream_t stream) {
  launch("replay clear report", clear_report_kernel, 1, 1, 0, stream, replay);
  launch("replay weigh", weigh_kernel, blocks_of(n, kThreads), kThreads, 0, stream, replay, id, priority, n,
         workspace);
  launch("replay update", update_kernel, blocks_of(replay.shape.tasks, 1), kThreads, 0, stream, replay, id,
         workspace, n);
}

void replay_rebuild_cuda(const ReplayCuda& replay, double exponent, cudaStream_t stream) {
  launch("replay rebuild", rebuild_kernel, blocks_of(replay.shape.tasks, 1), kThreads, 0, stream, replay,
         exponent);
}
