// The steps of an update, in the order of `SacUpdate::run`.
#include "critic/sac_update.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "critic/adam_polyak.h"
#include "critic/min_routing.h"
#include "critic/sac_network.h"
#include "critic/td_target.h"

namespace {

void copy_rows(int64_t rows, int64_t cols, const float* from, float* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; ++r) std::copy(from + r * cols, from + (r + 1) * cols, to + r * to_row);
}

}  // namespace

SacUpdate::SacUpdate(const SacSettings& settings, MultiHeadShape actor, MultiHeadShape critic, int threads)
    : settings_(settings),
      actor_(std::make_unique<Network>(std::move(actor))),
      critic_(std::make_unique<Network>(critic)),
      target_(std::make_unique<Network>(std::move(critic))),
      team_(threads),
      observations_(actor_->shape.inputs),
      actions_(actor_->shape.outputs / 2),
      room_(nullptr, std::free) {}

SacUpdate::~SacUpdate() = default;

const MultiHeadShape& SacUpdate::actor_shape() const { return actor_->shape; }
const MultiHeadShape& SacUpdate::critic_shape() const { return critic_->shape; }

int64_t SacUpdate::group_size() const { return team_.size() > 1 ? critic_->shape.critics : 1; }

TanhGaussian SacUpdate::gaussian(int64_t rows) const {
  return {rows, actions_, static_cast<float>(settings_.log_std_min),
          static_cast<float>(settings_.log_std_max)};
}

double SacUpdate::step(const AdamState& state, double lr, double weight_decay, double clip, float* target) {
  const int64_t chunks = (state.size + kAdamChunk - 1) / kAdamChunk;
  chunk_.assign(chunks, 0.0);
  auto size = [&](int64_t c) { return std::min(kAdamChunk, state.size - c * kAdamChunk); };
  team_.run(chunks,
            [&](int64_t c, int) { chunk_[c] = squared_norm(size(c), state.gradient + c * kAdamChunk); });
  double squares = 0.0;
  for (double chunk : chunk_) squares += chunk;
  const double norm = std::sqrt(squares);
  const AdamPolyak adam{lr,   settings_.beta1,  settings_.beta2, settings_.adam_eps, weight_decay,
                        clip, settings_.polyak, state.steps};
  team_.run(chunks, [&](int64_t c, int) {
    const int64_t from = c * kAdamChunk;
    adam_polyak_apply(adam, norm, size(c), state.gradient + from, state.mean + from, state.square + from,
                      state.value + from, target ? target + from : nullptr);
  });
  return norm;
}

// Policy and next policy: log_prob_, next_log_prob_, and the critics' inputs x_, next_x_ and new_x_.
void SacUpdate::sample_actions(const float* actor, const SacBatch& batch) {
  const int64_t inputs = actions_ + observations_;
  pack_forward(*actor_, actor);
  const Blocks blocks(batch.rows);
  team_.run(2 * blocks.count(), [&](int64_t i, int thread) {
    const bool next = i >= blocks.count();
    const int64_t b = i % blocks.count() * blocks.size, rows = blocks.length(b);
    const Scratch own = scratch(thread);
    std::vector<float*> hidden = actor_->from(actor_->hidden, 0, batch.rows, b);
    for (size_t layer = 0; next && layer < hidden.size(); ++layer) hidden[layer] = own.activations[layer % 2];
    float *output = next ? own.output : output_ + b * 2 * actions_,
          *joined = (next ? next_x_ : new_x_) + b * inputs;
    const float* observation = (next ? batch.next_observation : batch.observation) + b * observations_;
    forward_rows(*actor_, actor, 0, rows, observation, batch.task + b, hidden.data(), output, own.workspace);
    tanh_gaussian_sample(gaussian(rows), output, (next ? batch.next_noise : batch.noise) + b * actions_,
                         joined, inputs, (next ? next_log_prob_ : log_prob_) + b);
    copy_rows(rows, observations_, observation, joined + actions_, inputs);
    if (next) return;
    copy_rows(rows, actions_, batch.action + b * actions_, x_ + b * inputs, inputs);
    copy_rows(rows, observations_, observation, x_ + b * inputs + actions_, inputs);
  });
}

// y_, from the next actions.
void SacUpdate::evaluate_targets(const float* target, const SacBatch& batch) {
  const int64_t critics = critic_->shape.critics, inputs = critic_->shape.inputs;
  pack_forward(*target_, target);
  const Blocks blocks(batch.rows);
  team_.run(critics * blocks.count(), [&](int64_t i, int thread) {
    const int64_t e = i % critics, b = i / critics * blocks.size, rows = blocks.length(b);
    const Scratch own = scratch(thread);
    std::vector<float*> hidden(target_->shape.depth);
    for (size_t layer = 0; layer < hidden.size(); ++layer) hidden[layer] = own.activations[layer % 2];
    forward_rows(*target_, target, e, rows, next_x_ + b * inputs, batch.task + b, hidden.data(),
                 next_q_ + e * batch.rows + b, own.workspace);
  });
  td_target(critics, batch.rows, batch.reward, batch.terminated, next_q_, next_log_prob_, alpha_,
            batch.discount, y_);
}

// critic.gradient, priority, and the metrics critic_loss and q_mean.
void SacUpdate::differentiate_critics(const AdamState& critic, const SacBatch& batch, float* priority,
                                      SacMetrics* metrics) {
  const int64_t critics = critic_->shape.critics, inputs = critic_->shape.inputs;
  const float share = 2.0f / static_cast<float>(critics * batch.rows);
  pack_forward(*critic_, critic.value);
  pack_backward(*critic_, critic.value, 0);
  const Blocks blocks(batch.rows);
  const int64_t group = group_size();
  for (int64_t first = 0; first < critics; first += group) {
    team_.run(group * blocks.count(), [&](int64_t i, int thread) {
      const int64_t at = i % group, e = first + at, b = i / group * blocks.size, rows = blocks.length(b);
      const std::vector<float*> hidden = critic_->from(critic_->hidden, at, batch.rows, b);
      const std::vector<float*> dz = critic_->from(critic_->dz, at, batch.rows, b);
      const std::vector<float*> sums = critic_->from(critic_->sums, at, blocks.count(), i / group);
      const Scratch own = scratch(thread);
      float *q = q_ + e * batch.rows + b, *dq = dq_ + e * batch.rows + b;
      forward_rows(*critic_, critic.value, e, rows, x_ + b * inputs, batch.task + b, hidden.data(), q,
                   own.workspace);
      for (int64_t r = 0; r < rows; ++r) dq[r] = share * batch.weight[b + r] * (q[r] - y_[b + r]);
      backward_rows(*critic_, critic.value, e, rows, batch.task + b, dq, hidden.data(), dz.data(),
                    sums.data(), own.workspace);
    });
    weight_gradients(*critic_, first, group, batch.rows, x_, batch.task, dq_, critic.gradient);
  }
  double squares = 0.0, sum = 0.0;
  for (int64_t b = 0; b < batch.rows; ++b) {
    double error = 0.0;
    for (int64_t e = 0; e < critics; ++e) {
      const double q = q_[e * batch.rows + b], delta = q - y_[b];
      error += std::fabs(delta);
      squares += batch.weight[b] * delta * delta;
      sum += q;
    }
    priority[b] = static_cast<float>(error / static_cast<double>(critics));
  }
  metrics->critic_loss = squares / static_cast<double>(critics * batch.rows);
  metrics->q_mean = sum / static_cast<double>(critics * batch.rows);
}

// daction_, the gradient of -mean min_e Q_e in the new actions, and least_.
void SacUpdate::route_actions(const float* critic, const SacBatch& batch) {
  const MultiHeadShape& s = critic_->shape;
  const Parameters<const float> at{s, critic};
  pack_forward(*critic_, critic);
  pack_backward(*critic_, critic, actions_);
  const Blocks blocks(batch.rows);
  team_.run(s.critics * blocks.count(), [&](int64_t i, int thread) {
    const int64_t e = i % s.critics, b = i / s.critics * blocks.size, rows = blocks.length(b);
    const std::vector<float*> hidden = critic_->from(critic_->hidden, e, batch.rows, b);
    forward_rows(*critic_, critic, e, rows, new_x_ + b * s.inputs, batch.task + b, hidden.data(),
                 q_ + e * batch.rows + b, scratch(thread).workspace);
  });
  route_rows(s.critics, batch.rows, q_, route_start_.data(), route_.data(), least_);
  std::vector<std::pair<int64_t, int64_t>> jobs;  // critic, first of its routed rows
  for (int64_t e = 0; e < s.critics; ++e) {
    for (int64_t r = route_start_[e]; r < route_start_[e + 1]; r += blocks.size) jobs.emplace_back(e, r);
  }
  const float dq = -1.0f / static_cast<float>(batch.rows);
  team_.run(static_cast<int64_t>(jobs.size()), [&](int64_t index, int thread) {
    const auto [e, first] = jobs[index];
    const int64_t *row = route_.data() + first, rows = std::min(blocks.size, route_start_[e + 1] - first);
    const std::vector<float*> hidden = critic_->from(critic_->hidden, e, batch.rows, 0);
    const Scratch own = scratch(thread);
    float *dz = own.activations[0], *dx = own.activations[1];
    routed_head(rows, s.width, row, batch.task, at.head_kernel(e), dq, hidden[s.depth - 1], critic_->row, dz,
                critic_->row);
    for (int64_t layer = s.depth - 1; layer > 0; --layer) {
      matmul(rows, dz, critic_->row, critic_->backward[layer * s.critics + e], dx, critic_->row, false);
      routed_mask(rows, s.width, row, hidden[layer - 1], critic_->row, dx, critic_->row);
      std::swap(dz, dx);
    }
    matmul(rows, dz, critic_->row, critic_->backward[e], own.output, actions_, false);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy(own.output + r * actions_, own.output + (r + 1) * actions_, daction_ + row[r] * actions_);
    }
  });
}

// actor.gradient, from daction_ and from the entropy term's gradient in log pi; the metric actor_loss.
void SacUpdate::differentiate_actor(const AdamState& actor, const SacBatch& batch, SacMetrics* metrics) {
  const int64_t inputs = actions_ + observations_;
  const float share = 1.0f / static_cast<float>(batch.rows);
  pack_backward(*actor_, actor.value, 0);
  const Blocks blocks(batch.rows);
  team_.run(blocks.count(), [&](int64_t i, int thread) {
    const int64_t b = i * blocks.size, rows = blocks.length(b);
    for (int64_t r = b; r < b + rows; ++r) dlog_prob_[r] = alpha_[r] * share;
    tanh_gaussian_backward(gaussian(rows), output_ + b * 2 * actions_, batch.noise + b * actions_,
                           new_x_ + b * inputs, inputs, daction_ + b * actions_, dlog_prob_ + b,
                           doutput_ + b * 2 * actions_);
    const std::vector<float*> hidden = actor_->from(actor_->hidden, 0, batch.rows, b);
    const std::vector<float*> dz = actor_->from(actor_->dz, 0, batch.rows, b);
    const std::vector<float*> sums = actor_->from(actor_->sums, 0, blocks.count(), i);
    backward_rows(*actor_, actor.value, 0, rows, batch.task + b, doutput_ + b * 2 * actions_, hidden.data(),
                  dz.data(), sums.data(), scratch(thread).workspace);
  });
  weight_gradients(*actor_, 0, 1, batch.rows, batch.observation, batch.task, doutput_, actor.gradient);
  double loss = 0.0;
  for (int64_t b = 0; b < batch.rows; ++b) loss += static_cast<double>(alpha_[b]) * log_prob_[b] - least_[b];
  metrics->actor_loss = loss / static_cast<double>(batch.rows);
}

// Returns J(alpha); steps log alpha. The gradient of a task's log alpha is the sum over its rows.
double SacUpdate::update_temperature(const AdamState& log_temperature, const SacBatch& batch) {
  std::vector<double> gradient(log_temperature.size, 0.0);
  double loss = 0.0;
  for (int64_t b = 0; b < batch.rows; ++b) {
    const double slope = -(log_prob_[b] + settings_.target_entropy) / static_cast<double>(batch.rows);
    gradient[batch.task[b]] += slope;
    loss += slope * log_temperature.value[batch.task[b]];
  }
  std::copy(gradient.begin(), gradient.end(), log_temperature.gradient);
  step(log_temperature, settings_.temperature_lr, 0.0, HUGE_VAL, nullptr);
  return loss;
}

// One gradient step of soft actor-critic (Haarnoja et al. 2018, algorithm 1) with a temperature per task. In
// the paper's symbols: policy pi_phi, critics Q_theta_e with slow copies Q_theta'_e, temperature alpha_t of
// the row's task t, importance weights w of prioritised replay. Every step uses alpha from before the update.
SacMetrics SacUpdate::run(const AdamState& actor, const AdamState& critic, float* target,
                          const AdamState& log_temperature, const SacBatch& batch, float* priority) {
  const auto lock = mutex_.lock("this update");
  SacMetrics metrics{};
  reserve(batch.rows);
  for (int64_t b = 0; b < batch.rows; ++b) alpha_[b] = std::exp(log_temperature.value[batch.task[b]]);
  // a ~ pi_phi(. | s) and a' ~ pi_phi(. | s'), with log pi of both.
  sample_actions(actor.value, batch);
  // y = r + discount (1 - d) (min_e Q_theta'_e(s', a') - alpha log pi(a' | s')).
  evaluate_targets(target, batch);
  // Gradient in theta of J_Q = mean over e and b of w (Q_theta_e(s, a) - y)^2; priority = mean_e |Q - y|.
  differentiate_critics(critic, batch, priority, &metrics);
  // theta <- Adam(clip(gradient)), then theta' <- theta' + polyak (theta - theta').
  metrics.critic_gradient_norm =
      step(critic, settings_.critic_lr, settings_.weight_decay, settings_.critic_clip, target);
  // Gradient in phi of J_pi = mean of alpha log pi(a | s) - min_e Q_theta_e(s, a), with the new theta: first
  // in the action a, through each row's least critic only; from there through the reparametrised a to phi.
  route_actions(critic.value, batch);
  differentiate_actor(actor, batch, &metrics);
  // phi <- Adam(clip(gradient)).
  metrics.actor_gradient_norm =
      step(actor, settings_.actor_lr, settings_.weight_decay, settings_.actor_clip, nullptr);
  // log alpha_t <- Adam of J(alpha) = mean of -log alpha_t (log pi(a | s) + target entropy).
  metrics.temperature_loss = update_temperature(log_temperature, batch);
  return metrics;
}

void SacUpdate::act(const float* actor, int64_t rows, const float* observation, const int64_t* task,
                    const float* noise, float* action) {
  if (rows == 0) return;
  const auto lock = mutex_.lock("this update");
  reserve(rows_ == 0 ? rows : rows_);  // the room of the last update serves
  pack_forward(*actor_, actor);
  const Scratch own = scratch(0);
  std::vector<float*> hidden(actor_->shape.depth);
  for (size_t layer = 0; layer < hidden.size(); ++layer) hidden[layer] = own.activations[layer % 2];
  for (int64_t b = 0, tall = Blocks(rows_).size; b < rows; b += tall) {
    const TanhGaussian block = gaussian(std::min(tall, rows - b));
    forward_rows(*actor_, actor, 0, block.rows, observation + b * observations_, task + b, hidden.data(),
                 own.output, own.workspace);
    if (noise) {
      float* log_prob = own.activations[0];
      tanh_gaussian_sample(block, own.output, noise + b * actions_, action + b * actions_, actions_,
                           log_prob);
    } else {
      tanh_gaussian_mode(block, own.output, action + b * actions_);
    }
  }
}
