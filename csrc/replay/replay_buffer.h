#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "forks.h"
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
  int64_t rows() const { return store_.rows(); }      // of each task, as in TransitionStore
  int64_t stride() const { return store_.stride(); }  // floats of a row

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
  // where a task has nothing to draw; then nothing has changed. A prefetched batch is given instead of a new
  // one; throws where it has other counts.
  void sample(const int64_t* count, const BatchView& batch);

  // Prefetches the batch that the next `sample` gives, from the buffer as it is now: a thread of the
  // buffer's own draws it, or without one (`on_thread` is false, or none can be started) the next call that
  // would change or save anything, before it does. So its bits depend on the order of calls alone. `batch`
  // must stay until `sample` has given it or the buffer is gone; if `sample` is given the same arrays,
  // nothing is copied. If no batch can be drawn now (a task is empty), `sample` tries again and reports the
  // error.
  void prefetch(const int64_t* count, const BatchView& batch, bool on_thread);
  std::vector<int64_t> prefetched_counts();  // of the prefetched batch; empty where there is none

  // Sets priorities and returns how many ids were stale: overwritten since, and so dropped. Of equal ids the
  // last wins. Throws std::invalid_argument naming the row for an id that never was or a priority that is
  // NaN, infinite or negative; then nothing has changed.
  int64_t update_priorities(const int64_t* id, const double* priority, int64_t n);

  std::vector<int64_t> size() const;
  std::string check() const;  // empty, or what is wrong

  // checkpoint_*.cpp: the state as a stream of bytes and back, whole or without the rows that segments hold.
  // A row is written once and then stays until it is overwritten, so a segment, the rows of transitions
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
  // damaged stream or segment and for those of another shape. No stream, whatever is in it, makes a buffer
  // that `check` would find fault with.
  std::vector<Segment> load(Bytes stream, const Segments& segments);

  // The same stream of a replay that lies elsewhere (on a GPU). Its tasks go through this buffer one by one:
  // it must have a single task and serve nothing else.
  struct Elsewhere {
    int64_t tasks;
    uint64_t seed, draws;
    double alpha;                                // by now
    std::function<RingImage(int64_t)> image_of;  // of a task: full when saving, to be filled when loading
    std::function<void(int64_t)> filled;         // after an image was filled
  };
  // As `save_rows`; a row has the same bytes in all files if the numbers of RingImage are kept between calls.
  void save_rows_elsewhere(const Elsewhere& replay, int64_t first, int64_t last, const Sink& sink);
  // `count` [tasks] is of the batch that was prefetched; empty where none was.
  void save_elsewhere(const Elsewhere& replay, const std::vector<Segment>& segments,
                      const std::vector<int64_t>& count, const BatchView& batch, const Sink& sink);
  // Fills seed, draws, alpha and the images and returns the segments. Throws std::invalid_argument as `load`,
  // before the first image. A prefetched batch is then this buffer's: see `prefetched_counts`.
  std::vector<Segment> load_elsewhere(Elsewhere& replay, Bytes stream, const Segments& segments);
  void take_prefetched(const BatchView& batch);

 private:
  class Source;
  struct Contents;
  struct Header;
  // The prefetch thread. On the heap, so that a forked child can leave it behind: destroying a condition
  // variable that a thread of the parent waits for would never end.
  struct Worker {
    std::thread thread;
    std::condition_variable wake;
    bool stop = false;
    int at_forks = forks();
  };
  // The batch that the next `sample` gives.
  struct Prefetched {
    std::vector<int64_t> count;  // of each task; empty: there is none
    BatchView view{};
    bool drawn = false;
    std::vector<int64_t> memory;  // of the view, where a checkpoint held it
  };

  std::unique_lock<std::mutex> lock() const;
  // The lock, with the prefetched batch drawn: for all that changes or saves something.
  std::unique_lock<std::mutex> lock_after_prefetch();
  void finish_prefetch();
  Worker* start_worker();
  void give_prefetched(const BatchView& batch);

  // One batch in the steps of Schaul et al. 2016, algorithm 1: transitions j ~ P(j) = p_j^alpha / sum p^alpha
  // (line 9), their columns, and their weights w_j = (N P(j))^-beta / max w (line 10).
  void draw_batch(const int64_t* count, const BatchView& batch);
  void check_can_draw(const int64_t* count);                               // throws, changing nothing
  void draw(const Stream& stream, int64_t task, int64_t n, int64_t* row);  // row numbers of n transitions
  void weigh(const int64_t* count, const std::vector<int64_t>& row, const BatchView& batch);
  double scale(int64_t task) const;  // N / sum p^alpha of a task
  double least_density() const;      // the least N P(j) of all tasks' transitions

  bool is_live(int64_t id) const;  // still held; needs an id that was given
  // Throws for a row of update_priorities that is wrong. `weight` is the priority to the power alpha.
  void check_priority(int64_t i, int64_t id, double priority, double weight) const;

  // checkpoint_*.cpp. Rows are written and read in chunks of at most rows_of_chunk().
  int64_t oldest_row() const;  // the first transition whose row is needed
  int64_t rows_of_chunk() const;
  void check_settled(int64_t first, int64_t last) const;
  void check_segments(const std::vector<Segment>& segments) const;
  void take_task(const Elsewhere& replay, int64_t task);
  void put_segment_header(int64_t tasks, int64_t first, int64_t last, const Sink& sink) const;
  Header header_of(int64_t tasks, int64_t segments, int64_t prefetched) const;
  void put_header(Header header, const std::vector<Segment>& segments, const Sink& sink) const;
  void put_rows(int64_t task, int64_t first, int64_t last, const Sink& sink) const;
  void put_task(int64_t task, const std::vector<Segment>& segments, const Sink& sink) const;
  void put_prefetched(const std::vector<int64_t>& count, const BatchView& batch, const Sink& sink) const;
  Contents open(Bytes stream, const Segments& find, int64_t tasks) const;
  Source open_segment(const Segment& segment, Bytes bytes, int64_t tasks) const;
  void read_rows(Source& source, const std::string& name, int64_t task, Span rows, int64_t oldest,
                 TransitionStore::RowWalk& walk, bool apply);
  void read_task(Contents& file, int64_t number, int64_t task, bool apply);
  void read_leaves(Source& source, const std::string& name, int64_t task, const TransitionStore::Ring& ring,
                   bool apply);
  void read_end(Contents& file) const;
  void read_prefetched(Contents& file) const;

  Settings settings_;  // alpha, beta and seed as they are by now
  int at_forks_ = forks();
  ForkMutex mutex_;                 // of all below
  TransitionStore store_;           // the transitions
  Arena leaves_;                    // of all trees
  std::vector<FlatSumTree> trees_;  // p^alpha of each task's rows; none unless prioritized
  double first_alpha_;              // of the settings it was made with
  uint64_t draws_ = 0;              // batches drawn so far: which random numbers the next one takes
  // Scratch of a draw and of an update of priorities: rows drawn, leaves to set, powers, N P(j), weights.
  std::vector<int64_t> row_, index_;
  std::vector<double> scratch_, density_;
  std::vector<float> weight_;
  Prefetched prefetched_;
  std::unique_ptr<Worker> worker_;  // draws prefetched batches; started by the first `prefetch` with a thread
};
