#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "replay/sampler.h"

// A batch's columns in the order of its fields.
struct Column {
  void* data;
  size_t bytes;
};
std::array<Column, 9> columns_of(const TransitionStore::Shape& shape, const BatchView& batch);

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
    int64_t next = 0;  // floats of a next observation that a batch is given; see BatchView
  };
  using Sink = std::function<void(const void*, size_t)>;

  explicit ReplayBuffer(const Settings& settings);  // throws std::invalid_argument naming the setting
  ~ReplayBuffer();
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
  // where a task has nothing to draw; then nothing has changed. A batch that was asked for is given instead
  // of a new one; throws where it has other counts.
  void sample(const int64_t* count, const BatchView& batch);

  // Asks for the batch that the next `sample` gives, from the buffer as it is now: it is drawn by a thread
  // beside the caller's or, without one, by the next call that would change or save anything, before it does.
  // So its bits are a function of the order of calls alone. `batch` must stay until `sample` has given it; if
  // that is into the same arrays, nothing is copied. What cannot be drawn now is left to `sample` to draw.
  void ask(const int64_t* count, const BatchView& batch, bool on_thread);
  std::vector<int64_t> asked();  // the counts of the batch that was asked for; none where none was

  // Sets priorities and returns how many ids were stale: overwritten since, and so dropped. Of equal ids the
  // last wins. Throws std::invalid_argument naming the row for an id that never was or a priority that is
  // NaN, infinite or negative; then nothing has changed.
  int64_t update_priorities(const int64_t* id, const double* priority, int64_t n);

  std::vector<int64_t> size() const;
  std::string check() const;  // empty, or what is wrong

  // checkpoint.cpp: the state as a stream of bytes and back, whole or without the rows that segments hold. A
  // row is written once and then stays until it is overwritten, so a segment, the rows of transitions
  // [first, last) of every task, serves all later checkpoints.
  struct Segment {
    int64_t first, last;
    uint32_t checksum;  // CRC-32 of its bytes
  };
  struct Span {
    int64_t first, last;
  };
  Span settled_rows() const;  // transitions whose rows will not change while they are held
  // Throws std::invalid_argument where they are not all settled.
  void save_rows(int64_t first, int64_t last, const Sink& sink) const;
  void save(const std::vector<Segment>& segments, const Sink& sink);
  // What it needs beside the stream: asked for once each, all valid until `load` returns.
  struct Bytes {
    const uint8_t* data;
    size_t size;
  };
  using Segments = std::function<Bytes(const Segment&)>;
  // Returns the segments that the stream names. Throws std::invalid_argument, with nothing changed, for a
  // damaged stream or segment and for those of another shape.
  std::vector<Segment> load(Bytes stream, const Segments& segments);

 private:
  class Source;
  // A batch that the next `sample` gives.
  struct Ahead {
    std::vector<int64_t> count;  // none: nothing was asked for
    BatchView view{};
    bool drawn = false;
    std::vector<int64_t> memory;  // of the view, where a checkpoint held it
  };

  std::unique_lock<std::mutex> settled();
  void settle();
  void work();
  void draw_batch(const int64_t* count, const BatchView& batch);
  int64_t oldest_row() const;
  int64_t rows_of_chunk() const;
  void put_rows(int64_t task, int64_t first, int64_t last, const Sink& sink) const;
  void read_rows(Source& source, int64_t task, int64_t first, int64_t last, int64_t oldest, bool apply);
  void read_segment(Source& source, const Segment& segment, int64_t oldest, bool apply);
  Span read_tasks(Source& source, const std::vector<Segment>& segments, bool apply);
  Ahead read_ahead(Source& source, int64_t rows) const;
  void draw(const Stream& stream, int64_t task, int64_t n, int64_t* row);
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
  Ahead ahead_;
  bool stop_ = false;
  std::condition_variable wake_;
  std::thread worker_;
};
