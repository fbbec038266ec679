#include "replay/replay_buffer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "replay/power.h"

namespace {

constexpr int64_t kMostCapacity = int64_t{1} << 28;  // stacked rows have so many bits for a run's number
constexpr int64_t kMostFloats = int64_t{1} << 20;    // of an observation or an action
constexpr double kMostInAll = static_cast<double>(int64_t{1} << 45);  // floats; no more has an address

const ReplayBuffer::Settings& checked(const ReplayBuffer::Settings& settings) {
  const auto& shape = settings.shape;
  const auto need = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
  };
  need(shape.tasks >= 1 && shape.tasks < (1 << 15), "tasks must be from 1 to 32767");
  need(shape.capacity >= 2 && shape.capacity <= kMostCapacity, "capacity must be from 2 to 268435456");
  need(shape.observation >= 1 && shape.observation <= kMostFloats && shape.action >= 1 &&
           shape.action <= kMostFloats,
       "observation and action sizes must be from 1 to 1048576");
  const double floats = static_cast<double>(shape.observation + shape.action + 19) *
                        static_cast<double>(shape.capacity + 2) * static_cast<double>(shape.tasks);
  need(floats < kMostInAll, "the rows of all tasks take more than 128 TiB; lower tasks, capacity or sizes");
  need(shape.frame >= 0 && shape.frame <= shape.observation / 2,
       "a frame must fit twice into an observation");
  need(settings.alpha >= 0 && std::isfinite(settings.alpha), "alpha must be finite and not negative");
  need(settings.beta >= 0 && std::isfinite(settings.beta), "beta must be finite and not negative");
  need(settings.returns.steps >= 1 && settings.returns.steps <= kMostCapacity,
       "n_step must be from 1 to 268435456");
  need(settings.next == 0 ||
           (shape.frame > 0 && settings.next == shape.frame * (settings.returns.steps > 1 ? 2 : 1)),
       "only a stacked next observation can be given in part");
  need(is_supported(settings.set), "this processor lacks the instruction set");
  return settings;
}

// A positive priority stays drawable, however small its power.
float weight_of(double power, bool positive) {
  constexpr double kLeast = std::numeric_limits<float>::min(), kMost = std::numeric_limits<float>::max();
  return positive ? static_cast<float>(std::min(std::max(power, kLeast), kMost)) : 0.0f;
}

std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", value);
  return buffer;
}

}  // namespace

ReplayBuffer::ReplayBuffer(const Settings& settings)
    : settings_(checked(settings)), store_(settings.shape, settings.folder), first_alpha_(settings.alpha) {
  if (!is_prioritized(settings.mode)) return;
  const int64_t leaves = FlatSumTree::padded(store_.rows());
  leaves_ =
      Arena(static_cast<size_t>(leaves * settings.shape.tasks) * sizeof(float));  // together: huge pages
  for (int64_t task = 0; task < settings.shape.tasks; ++task)
    trees_.emplace_back(store_.rows(), settings.set, static_cast<float*>(leaves_.data()) + task * leaves);
}

void ReplayBuffer::add(const float* observation, const float* action, const float* reward,
                       const bool* terminated, const bool* truncated, const float* next_observation) {
  const auto lock = lock_after_prefetch();
  const auto& shape = settings_.shape;
  for (int64_t task = 0; task < shape.tasks; ++task)
    if (!store_.fits(observation + task * shape.observation, next_observation + task * shape.observation))
      throw std::invalid_argument(
          "task " + std::to_string(task) +
          ": rows of frame_stack need a next observation whose previous frame is this one's "
          "frame, and the same goal; use replay.rows=full");
  for (int64_t task = 0; task < shape.tasks; ++task) {
    // The row that leaves, once the ring is full; until then one that holds nothing.
    const int64_t oldest = store_.row_of(store_.end(task) + store_.rows() - shape.capacity);
    if (!trees_.empty()) trees_[task].enter(store_.row_of(store_.end(task)), oldest);
    store_.add(task, observation + task * shape.observation, action + task * shape.action, reward[task],
               terminated[task], truncated[task], next_observation + task * shape.observation);
  }
}

void ReplayBuffer::check_can_draw(const int64_t* count) {
  int64_t first = -1;
  for (int64_t task = 0; task < settings_.shape.tasks; ++task) {
    if (count[task] == 0) continue;
    const std::string name = "task " + std::to_string(task);
    if (count[task] < 0)
      throw std::invalid_argument("cannot sample a negative number of transitions of " + name);
    if (store_.size(task) == 0)
      throw std::invalid_argument(name + " has no transitions to sample; add some first");
    if (!trees_.empty()) {
      trees_[task].prepare();
      if (!(trees_[task].total() > 0))
        throw std::invalid_argument("all priorities of " + name + " are zero; there is nothing to sample");
    }
    if (first < 0) first = task;
    if (settings_.mode == Mode::uniform_shared && store_.size(task) != store_.size(first))
      throw std::invalid_argument(
          "uniform_shared draws one time index for all tasks, so all need the same number of transitions: "
          "task " +
          std::to_string(first) + " has " + std::to_string(store_.size(first)) + ", " + name + " has " +
          std::to_string(store_.size(task)) + "; use mode uniform");
  }
}

void ReplayBuffer::draw_batch(const int64_t* count, const BatchView& batch) {
  check_can_draw(count);
  row_.resize(batch.rows);
  const Stream stream{settings_.seed, draws_++};
  for (int64_t task = 0, at = 0; task < settings_.shape.tasks; at += count[task++]) {
    if (count[task] == 0) continue;
    draw(stream, task, count[task], row_.data() + at);
    gather(settings_.set, store_, settings_.returns, task, row_.data() + at, count[task], at, batch);
  }
  weigh(count, row_, batch);
}

void ReplayBuffer::draw(const Stream& stream, int64_t task, int64_t n, int64_t* row) {
  const auto name = static_cast<uint32_t>(task);
  if (!trees_.empty()) {
    const auto draw = settings_.mode == Mode::prioritized ? draw_stratified : draw_independent;
    draw(settings_.set, stream, name, trees_[task], store_.pieces(task), n, row, scratch_);
    return;
  }
  const uint32_t source = settings_.mode == Mode::uniform_shared ? kShared : name;
  draw_uniform(settings_.set, stream, source, store_.size(task), n, row);
  const int64_t oldest = store_.row_of(store_.begin(task));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t place = row[i] + oldest;
    row[i] = place < store_.rows() ? place : place - store_.rows();
  }
}

// Density N P(i) of a transition is its weight times this.
double ReplayBuffer::scale(int64_t task) const {
  return static_cast<double>(store_.size(task)) / trees_[task].total();
}

// Of all that could be drawn. Needs trees that were prepared, those of tasks left out of this batch as well.
double ReplayBuffer::least_density() const {
  double least = std::numeric_limits<double>::infinity();
  for (int64_t task = 0; task < settings_.shape.tasks; ++task)
    if (trees_[task].total() > 0) least = std::min(least, trees_[task].least_positive() * scale(task));
  return least;
}

void ReplayBuffer::weigh(const int64_t* count, const std::vector<int64_t>& row, const BatchView& batch) {
  if (trees_.empty()) {
    std::fill_n(batch.weight, batch.rows, 1.0f);
    return;
  }
  density_.resize(batch.rows);
  const bool per_task = settings_.normalization == Normalization::task;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t task = 0, at = 0; task < settings_.shape.tasks; at += count[task++]) {
    if (count[task] == 0) continue;
    const double factor = scale(task);
    double least_of_task = std::numeric_limits<double>::infinity();
    for (int64_t i = at; i < at + count[task]; ++i) {
      density_[i] = trees_[task].leaf(row[i]) * factor;
      least_of_task = density_[i] < least_of_task ? density_[i] : least_of_task;
    }
    if (per_task)
      importance_weights(settings_.set, density_.data() + at, count[task], least_of_task, settings_.beta,
                         batch.weight + at, scratch_);
    least = std::min(least, least_of_task);
  }
  if (per_task) return;
  if (settings_.normalization == Normalization::none) least = 1;
  if (settings_.normalization == Normalization::buffer) {
    for (FlatSumTree& tree : trees_) tree.prepare();
    least = least_density();
  }
  importance_weights(settings_.set, density_.data(), batch.rows, least, settings_.beta, batch.weight,
                     scratch_);
}

void ReplayBuffer::set_beta(double beta) {
  const auto lock = lock_after_prefetch();
  Settings changed = settings_;
  changed.beta = beta;
  settings_.beta = checked(changed).beta;
}

void ReplayBuffer::set_alpha(double alpha) {
  const auto lock = lock_after_prefetch();
  Settings changed = settings_;
  changed.alpha = alpha;
  checked(changed);
  if (alpha == settings_.alpha) return;
  if (alpha == 0 || settings_.alpha == 0)
    throw std::invalid_argument("alpha cannot be changed from or to 0: the priorities would be lost");
  if (std::isinf(alpha / settings_.alpha))
    throw std::invalid_argument("alpha is " + text(alpha) + ", too large to follow " + text(settings_.alpha));
  for (FlatSumTree& tree : trees_) {
    scratch_.assign(tree.leaves(), tree.leaves() + tree.size());
    power(settings_.set, scratch_.data(), tree.size(), alpha / settings_.alpha, scratch_.data());
    weight_.resize(scratch_.size());
    for (int64_t i = 0; i < tree.size(); ++i) weight_[i] = weight_of(scratch_[i], tree.leaf(i) > 0);
    tree.fill(weight_.data());
  }
  settings_.alpha = alpha;
}

bool ReplayBuffer::is_live(int64_t id) const { return sequence_of(id) >= store_.begin(task_of(id)); }

void ReplayBuffer::check_priority(int64_t i, int64_t id, double priority, double weight) const {
  const std::string row = "row " + std::to_string(i) + ": ";
  if (id < 0 || task_of(id) >= settings_.shape.tasks || sequence_of(id) >= store_.end(task_of(id)))
    throw std::invalid_argument(row + "no transition ever had id " + std::to_string(id));
  if (!(priority >= 0) || std::isinf(priority))
    throw std::invalid_argument(row + "priority is " + text(priority) +
                                "; it must be finite and not negative");
  if (weight > std::numeric_limits<float>::max())
    throw std::invalid_argument(row + "priority " + text(priority) + " to the power alpha = " +
                                text(settings_.alpha) + " is too large; scale the priorities down");
}

int64_t ReplayBuffer::update_priorities(const int64_t* id, const double* priority, int64_t n) {
  const auto lock = lock_after_prefetch();
  if (trees_.empty()) throw std::invalid_argument("only mode prioritized keeps priorities");
  scratch_.resize(n);
  power(settings_.set, priority, n, settings_.alpha, scratch_.data());
  for (int64_t i = 0; i < n; ++i) {
    const bool known = id[i] >= 0 && task_of(id[i]) < settings_.shape.tasks &&
                       sequence_of(id[i]) < store_.end(task_of(id[i]));
    if (!known || !(priority[i] >= 0) || std::isinf(priority[i]) ||
        scratch_[i] > std::numeric_limits<float>::max())
      check_priority(i, id[i], priority[i], scratch_[i]);
  }
  weight_.resize(n);
  index_.resize(n);
  int64_t stale = 0;
  for (int64_t i = 0; i < n;) {
    const int64_t task = task_of(id[i]);
    int64_t kept = 0;
    for (; i < n && task_of(id[i]) == task; ++i) {
      if (!is_live(id[i])) {
        ++stale;
        continue;
      }
      index_[kept] = store_.row_of(sequence_of(id[i]));
      weight_[kept++] = weight_of(scratch_[i], priority[i] > 0);
    }
    trees_[task].set(index_.data(), weight_.data(), kept);
  }
  return stale;
}

std::vector<int64_t> ReplayBuffer::size() const {
  const auto lock = this->lock();
  std::vector<int64_t> sizes(settings_.shape.tasks);
  for (int64_t task = 0; task < settings_.shape.tasks; ++task) sizes[task] = store_.size(task);
  return sizes;
}

std::string ReplayBuffer::check() const {
  const auto lock = this->lock();
  std::string wrong = store_.check();
  for (size_t task = 0; task < trees_.size() && wrong.empty(); ++task) {
    const std::string name = "task " + std::to_string(task) + ": ";
    const auto at = static_cast<int64_t>(task);
    if (const std::string tree = trees_[task].check(); !tree.empty()) return name + tree;
    const int64_t first = store_.row_of(store_.begin(at));
    for (int64_t row = 0; row < store_.rows(); ++row) {
      const int64_t offset = row >= first ? row - first : row - first + store_.rows();
      if (offset >= store_.size(at) && trees_[task].leaf(row) != 0)
        return name + "row " + std::to_string(row) + " has weight but holds no transition";
    }
  }
  return wrong;
}
