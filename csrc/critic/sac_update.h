#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "critic/tanh_gaussian.h"
#include "forks.h"
#include "parallel.h"

// One whole SAC update of a multi-head actor and an ensemble of multi-head critics (the paper's `mtmhsac`):
// targets, critics, Polyak average, actor, temperatures, in this order and all with the temperature from
// before. The same mathematics as the plain twin (mtrl/agent.py); three things make it cheaper. Rows go
// through all layers in blocks that stay in cache; the actor's loss is differentiated only through each row's
// least critic, and only down to the action; clip, Adam and Polyak average are one pass.
struct SacSettings {
  double polyak, actor_lr, critic_lr, temperature_lr, beta1, beta2, adam_eps;
  double weight_decay;  // decoupled, of actor and critics; temperatures have none
  double actor_clip, critic_clip, target_entropy;
  double log_std_min, log_std_max;
};

// A multi-head ensemble inside one flat vector. `start` holds where each parameter begins, in floats:
// task_row, head_kernel, head_bias, the `depth` kernels, the `depth` biases.
struct MultiHeadShape {
  int64_t critics, inputs, outputs, tasks, width, depth;
  std::vector<int64_t> start;
};

// What an optimiser holds for a flat vector of `size` floats.
struct AdamState {
  float *value, *gradient, *mean, *square;
  int64_t size;
  int64_t steps;  // the coming step included
};

// Rows of a batch, each with the discount of the value that follows it, and two draws of standard normal
// noise. Observations and actions are as wide as the networks say.
struct SacBatch {
  int64_t rows;
  const float *observation, *action, *reward, *terminated, *next_observation, *weight, *discount;
  const int64_t* task;  // each within the tasks
  const float *next_noise, *noise;
};

// Means over the batch, as in mtrl/objective/losses.py; the norms are those before the clip.
struct SacMetrics {
  double critic_loss, actor_loss, temperature_loss, q_mean, actor_gradient_norm, critic_gradient_norm;
};

// Safe from several threads: `run` and `act` share their scratch, so one waits for the other. In a forked
// child the work is done by the caller alone.
class SacUpdate {
 public:
  // actor: one critic, inputs = observation, outputs = 2 action. critic: inputs = action + observation, one
  // output.
  SacUpdate(const SacSettings& settings, MultiHeadShape actor, MultiHeadShape critic, int threads);
  ~SacUpdate();

  // Writes priority [rows], the mean over critics of |Q - y|. The result does not depend on the number of
  // threads.
  SacMetrics run(const AdamState& actor, const AdamState& critic, float* target,
                 const AdamState& log_temperature, const SacBatch& batch, float* priority);

  // Writes the actions [rows, action] of some observations. Null noise gives the deterministic ones.
  void act(const float* actor, int64_t rows, const float* observation, const int64_t* task,
           const float* noise, float* action);

  const MultiHeadShape& actor_shape() const;
  const MultiHeadShape& critic_shape() const;

 private:
  struct Network;
  // One thread's own room: two blocks of activations, one of outputs, and what the layers' kernels need.
  struct Scratch {
    float *activations[2], *output, *workspace;
  };

  void reserve(int64_t rows);
  Scratch scratch(int thread) const;
  // Critics that are differentiated together: one, so that what it leaves for its weights' gradients stays in
  // cache, but all where several threads share the work.
  int64_t group_size() const;
  TanhGaussian gaussian(int64_t rows) const;
  void pack_forward(Network& network, const float* value);
  void pack_backward(Network& network, const float* value, int64_t first_inputs);
  void forward_rows(const Network& network, const float* value, int64_t e, int64_t rows, const float* x,
                    const int64_t* task, float* const* hidden, float* out, float* workspace) const;
  void backward_rows(const Network& network, const float* value, int64_t e, int64_t rows, const int64_t* task,
                     const float* dout, float* const* hidden, float* const* dz, float* const* sums,
                     float* workspace) const;
  // Of `count` critics from `first` on, whose activations stand at the front of the network's.
  void weight_gradients(const Network& network, int64_t first, int64_t count, int64_t rows, const float* x,
                        const int64_t* task, const float* dout, float* gradient);
  double step(const AdamState& state, double lr, double weight_decay, double clip, float* target);

  void sample_actions(const float* actor, const SacBatch& batch);
  void evaluate_targets(const float* target, const SacBatch& batch);
  void differentiate_critics(const AdamState& critic, const SacBatch& batch, float* priority,
                             SacMetrics* metrics);
  void route_actions(const float* critic, const SacBatch& batch);
  void differentiate_actor(const AdamState& actor, const SacBatch& batch, SacMetrics* metrics);
  double update_temperature(const AdamState& log_temperature, const SacBatch& batch);

  SacSettings settings_;
  std::unique_ptr<Network> actor_, critic_, target_;
  ForkMutex mutex_;  // of all below
  Team team_;
  int64_t observations_, actions_, rows_ = 0, scratch_size_ = 0;
  std::unique_ptr<float, void (*)(void*)> room_;
  // Columns [rows]; critics' inputs [rows, action + observation] for the batch's, the next and the new
  // actions; values [critics, rows]; the policy's outputs and their gradients.
  float *alpha_, *log_prob_, *next_log_prob_, *y_, *least_, *dlog_prob_;
  float *x_, *next_x_, *new_x_, *next_q_, *q_, *dq_, *daction_, *output_, *doutput_, *scratch_;
  float *forward_room_, *backward_room_;  // packed kernels of the network at work: soon in cache again
  const char* kernel_ = nullptr;          // the matrix kernel that the packed matrices are for
  std::vector<int64_t> route_, route_start_;
  std::vector<double> chunk_;
};
