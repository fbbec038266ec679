#pragma once

#include <cstdint>

#include "cuda/stream.h"

// Twin of replay_buffer.h on the GPU: the same transitions, priorities and draws give the same batches, bit
// for bit. Rows lie as in transition_store.h, but a kept next observation has a place for every row: no row
// waits for another. All memory is one block that the caller owns, zeroed for an empty replay; nothing here
// waits for the GPU, and nothing but the pointers is kept on the host, so that every call can be captured in
// a CUDA graph.
// Not here: stacked rows.
enum class NormalizationCuda { batch, task, buffer, none };  // as in sampler.h

struct ReplayShapeCuda {
  int64_t tasks, capacity, observation, action;
  bool prioritized, shared;  // neither: uniform; shared: one list of time indices for all tasks
  bool independent;          // prioritized without strata
  NormalizationCuda normalization;
  double alpha, beta;
  int64_t n_step;
  float discount;
  uint64_t seed;
};

struct ReplayCuda {
  ReplayShapeCuda shape;
  int64_t rows, stride, blocks;  // rows per task, floats per row, tree blocks per task
  int64_t *begin, *end;          // [tasks] sequence numbers of the oldest and one past the newest
  int64_t* open;                 // [tasks] 1 where the row after the newest holds its next observation
  int64_t* draws;                // how often was sampled
  int64_t* report;  // of the last update_priorities: how many were stale; n - i for the first bad row i, or 0
  double *prefix, *sums16, *sums256;
  float *leaves, *maxima16, *maxima256;
  int* stamp;          // [tasks, rows], zero between calls
  float *row, *final;  // [tasks, rows, stride], [tasks, rows, observation]
};

// Bytes of the block, and the view of it. Memory is aligned to 256.
int64_t replay_cuda_bytes(const ReplayShapeCuda& shape);
ReplayCuda replay_cuda(const ReplayShapeCuda& shape, void* memory);

// All pointers below are to the device's memory, or to pinned memory of the host.

// One transition per task, as ReplayBuffer::add. The flags are 0 or 1.
struct TransitionsCuda {
  const float *observation, *action, *reward;
  const uint8_t *terminated, *truncated;
  const float* next_observation;
};
void replay_add_cuda(const ReplayCuda& replay, const TransitionsCuda& transitions, cudaStream_t stream);

// `first` [tasks + 1]: task t gets rows first[t] <= i < first[t + 1] of the batch. Every task with rows needs
// transitions and, where prioritized, a positive priority; without, its rows are the oldest transition.
// `workspace` holds replay_sample_workspace bytes, aligned to 8.
struct BatchCuda {
  int64_t rows;
  const int64_t* first;
  float *observation, *action, *reward, *terminated, *next_observation;
  int64_t* task;
  float* weight;
  int64_t* id;
  float* discount;
};
int64_t replay_sample_workspace(const ReplayCuda& replay, int64_t rows);
void replay_sample_cuda(const ReplayCuda& replay, const BatchCuda& batch, void* workspace,
                        cudaStream_t stream);

// As ReplayBuffer::update_priorities; what is wrong goes to `report`, and then nothing has changed.
// `workspace` holds n floats.
void replay_update_cuda(const ReplayCuda& replay, const int64_t* id, const float* priority, int64_t n,
                        float* workspace, cudaStream_t stream);

// All priorities to the power of `exponent`, and the trees' sums from their leaves: after loading leaves (1),
// or for another alpha (the new over the old). Prioritized only.
void replay_rebuild_cuda(const ReplayCuda& replay, double exponent, cudaStream_t stream);
