#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "replay/sampler.h"

// The replay of several tasks: transitions, priorities and the count of draws. Safe from several threads:
// every public function takes the one lock, so a batch never holds half of a transition.
class ReplayBuffer {
 public:
  struct Settings {
    TransitionStore::Shape shape;
    Mode mode;
    double alpha, beta;  // exponents of priorities and of importance weights; prioritized only
    uint64_t seed;
    InstructionSet set;
    std::string folder;  // where rows lie in a file; empty: memory
    Normalization normalization = Normalization::batch;
    Returns returns{};
  };
  using Sink = std::function<void(const void*, size_t)>;

  explicit ReplayBuffer(const Settings& settings);  // throws std::invalid_argument naming the setting
  const Settings& settings() const { return settings_; }

  // One transition per task: arrays [tasks, ...], dense. New transitions get the task's greatest live weight,
  // 1 where there is none.
  void add(const float* observation, const float* action, const float* reward, const bool* terminated,
           const bool* truncated, const float* next_observation);

  // The importance-weight exponent from now on, and the priority exponent: then all weights are raised to the
  // power of the new over the old one, as if the priorities had been set under it (to float32's rounding).
  // A file of `save` is taken by a replay that was made with the same alpha, whatever was set since.
  void set_beta(double beta);
  void set_alpha(double alpha);

  // count[task] transitions of each task, batch.rows in all, ordered by task. Throws std::invalid_argument
  // where a task has nothing to draw; then nothing has changed.
  void sample(const int64_t* count, const BatchView& batch);

  // Sets priorities and returns how many ids were stale: overwritten since, and so dropped. Of equal ids the
  // last wins. Throws std::invalid_argument naming the row for an id that never was or a priority that is
  // NaN, infinite or negative; then nothing has changed.
  int64_t update_priorities(const int64_t* id, const double* priority, int64_t n);

  std::vector<int64_t> size() const;
  std::string check() const;  // empty, or what is wrong

  // checkpoint.cpp: the whole state as a stream of bytes and back. `load` throws std::invalid_argument, with
  // nothing changed, for a damaged file and one of another shape.
  void save(const Sink& sink) const;
  void load(const uint8_t* bytes, size_t n);

 private:
  class Source;
  void read_tasks(Source& source, bool apply);
  void draw(const int64_t* count, std::vector<int64_t>& row);
  void weigh(const int64_t* count, const std::vector<int64_t>& row, const BatchView& batch);
  double scale(int64_t task) const;
  double least_density() const;
  void check_can_draw(const int64_t* count);
  bool is_live(int64_t id) const;
  void check_priority(int64_t i, int64_t id, double priority, double weight) const;

  Settings settings_;
  mutable std::mutex mutex_;
  TransitionStore store_;
  Arena leaves_;                    // of all trees
  std::vector<FlatSumTree> trees_;  // one per task; none unless prioritized
  double first_alpha_;              // of the settings it was made with
  uint64_t draws_ = 0;
  std::vector<int64_t> row_, index_;
  std::vector<double> scratch_, density_;
  std::vector<float> weight_;
};
