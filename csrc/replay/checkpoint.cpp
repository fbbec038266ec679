#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "replay/checked_file.h"
#include "replay/replay_buffer.h"

// The format, little-endian as the machines are:
//   Header                                   with its own checksum
//   a chunk of the segments' numbers: which transitions' rows are in other files, a run of them
//   per task: a chunk with the Ring's numbers; chunks of those of its live rows that are in no segment,
//   oldest first (an open row after the newest included), at most kChunk bytes each; a chunk of its kept
//   observations, oldest first; where prioritized, a chunk of its live leaves, oldest first.
//   where a batch was prefetched: a chunk of its counts and one of each column.
// A chunk is a ChunkHeader and that many bytes. A segment is a SegmentHeader and, per task, chunks of its
// rows.
//
// A checksum says that a file is as it was written, not who wrote it. So every number that is read is
// bounded before it is used, and every row is checked against its ring.

namespace {

constexpr char kMagic[8] = {'m', 't', 'r', 'l', 'R', 'P', 'L', 'Y'};
constexpr char kSegmentMagic[8] = {'m', 't', 'r', 'l', 'R', 'O', 'W', 'S'};
constexpr uint32_t kVersion = 3;
constexpr int64_t kChunk = int64_t{1} << 20;
constexpr int64_t kMostTransitions = int64_t{1} << 47;  // their ids have 48 bits

struct SegmentHeader {
  char magic[8];
  uint32_t version, row_bytes;
  int64_t tasks, first, last;
  uint32_t reserved, checksum;
};

struct SegmentNumbers {
  int64_t first, last;
  uint32_t checksum, reserved;
};

struct ChunkHeader {
  uint32_t bytes, checksum;
};

struct RingNumbers {
  int64_t begin, end;
  uint32_t kept_begin, kept_end;
  uint32_t open, reserved;
};

ChunkHeader chunk_header(size_t bytes, uint32_t checksum) {
  if (bytes > UINT32_MAX)
    throw std::runtime_error(
        "a part of the replay has " + std::to_string(bytes) +
        " bytes; its checkpoint holds less than 4 GiB in one part: lower replay.capacity");
  return {static_cast<uint32_t>(bytes), checksum};
}

void put_chunk(const ReplayBuffer::Sink& sink, const void* bytes, size_t n) {
  const ChunkHeader header = chunk_header(n, crc32(0, bytes, n));
  sink(&header, sizeof header);
  sink(bytes, n);
}

[[noreturn]] void damaged(const std::string& what) {
  throw std::invalid_argument("the replay checkpoint is damaged: " + what);
}

template <class T>
void check_same(const char* field, T file, T here) {
  if (file != here)
    throw std::invalid_argument(std::string("the replay checkpoint has ") + field + " = " +
                                std::to_string(file) + ", this replay has " + std::to_string(here));
}

bool is_weight(float leaf) { return leaf >= 0 && std::isfinite(leaf); }

}  // namespace

struct ReplayBuffer::Header {
  char magic[8];
  uint32_t version, prioritized;
  int64_t tasks, capacity, observation, action;
  uint64_t seed, draws;
  double alpha, present_alpha;   // at first and by now
  int64_t segments, prefetched;  // how many segments; rows of the prefetched batch
  uint32_t frame, checksum;      // the latter of the bytes before it
};

// What is left of a checkpoint's bytes.
class ReplayBuffer::Source {
 public:
  Source(Bytes bytes, std::string whose) : at_(bytes.data), left_(bytes.size), whose_(std::move(whose)) {}

  const uint8_t* take(size_t n, const std::string& what) {
    if (n > left_) damaged("it ends inside " + whose_ + what);
    const uint8_t* taken = at_;
    at_ += n;
    left_ -= n;
    return taken;
  }
  template <class T>
  T take(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof value, what), sizeof value);
    return value;
  }

  // The bytes of the next chunk: `count` things of `size` bytes each, with the right checksum.
  const uint8_t* chunk(int64_t count, size_t size, const std::string& what) {
    const auto header = take<ChunkHeader>(what);
    if (count < 0 || static_cast<uint64_t>(count) > UINT32_MAX / size || header.bytes != count * size)
      damaged(whose_ + what + " has the wrong length");
    const uint8_t* bytes = take(header.bytes, what);
    if (crc32(0, bytes, header.bytes) != header.checksum)
      damaged(whose_ + what + " does not match its checksum");
    return bytes;
  }

  void expect_end() const {
    if (left_ != 0) damaged("there is more after its end" + whose_);
  }

 private:
  const uint8_t* at_;
  size_t left_;
  std::string whose_;
};

std::array<Column, 9> columns_of(const TransitionStore::Shape& shape, const BatchView& batch) {
  const auto floats = [&](float* data, int64_t width) {
    return Column{data, static_cast<size_t>(batch.rows * width) * sizeof(float)};
  };
  const auto names = [&](int64_t* data) {
    return Column{data, static_cast<size_t>(batch.rows) * sizeof(int64_t)};
  };
  return {floats(batch.observation, shape.observation),
          floats(batch.action, shape.action),
          floats(batch.reward, 1),
          floats(batch.terminated, 1),
          floats(batch.next_observation, batch.next > 0 ? batch.next : shape.observation),
          names(batch.task),
          floats(batch.weight, 1),
          names(batch.id),
          floats(batch.discount, 1)};
}

// Every call of `add` adds one transition of each task, so all rings have the first one's numbers.
int64_t ReplayBuffer::oldest_row() const {
  const int64_t begin = store_.begin(0);
  return begin - (settings_.shape.frame > 0 && begin > 0);  // stacked, the one before holds a frame
}

int64_t ReplayBuffer::rows_of_chunk() const { return std::max<int64_t>(1, kChunk / store_.bytes_per_row()); }

ReplayBuffer::Span ReplayBuffer::settled_rows() const {
  const auto lock = this->lock();
  const int64_t oldest = oldest_row();
  return {oldest, std::max(oldest, store_.end(0) - 1)};  // the newest may yet become its run's last
}

void ReplayBuffer::put_rows(int64_t task, int64_t first, int64_t last, const Sink& sink) const {
  const int64_t row_bytes = store_.bytes_per_row(), most = rows_of_chunk();
  for (int64_t at = first, n; at < last; at += n) {
    n = std::min(most, last - at);
    const int64_t row = store_.row_of(at), before_wrap = std::min(n, store_.rows() - row);
    const size_t here = before_wrap * row_bytes, there = (n - before_wrap) * row_bytes;
    const void *head = store_.row(task, row), *tail = store_.row(task, 0);
    const ChunkHeader header = chunk_header(here + there, crc32(crc32(0, head, here), tail, there));
    sink(&header, sizeof header);
    sink(head, here);
    sink(tail, there);
  }
}

void ReplayBuffer::check_settled(int64_t first, int64_t last) const {
  if (first < oldest_row() || last > store_.end(0) - 1 || first >= last)
    throw std::invalid_argument("the rows of transitions " + std::to_string(first) + " to " +
                                std::to_string(last) + " are not all there to be saved");
}

void ReplayBuffer::put_segment_header(int64_t tasks, int64_t first, int64_t last, const Sink& sink) const {
  SegmentHeader header{{}, kVersion, static_cast<uint32_t>(store_.bytes_per_row()), tasks, first, last, 0, 0};
  std::memcpy(header.magic, kSegmentMagic, sizeof kSegmentMagic);
  header.checksum = crc32(0, &header, sizeof header - sizeof header.checksum);
  sink(&header, sizeof header);
}

void ReplayBuffer::save_rows(int64_t first, int64_t last, const Sink& sink) const {
  const auto lock = this->lock();
  check_settled(first, last);
  put_segment_header(settings_.shape.tasks, first, last, sink);
  for (int64_t task = 0; task < settings_.shape.tasks; ++task) put_rows(task, first, last, sink);
}

ReplayBuffer::Header ReplayBuffer::header_of(int64_t tasks, int64_t segments, int64_t prefetched) const {
  const auto& shape = settings_.shape;
  Header header{{},
                kVersion,
                !trees_.empty(),
                tasks,
                shape.capacity,
                shape.observation,
                shape.action,
                settings_.seed,
                draws_,
                first_alpha_,
                settings_.alpha,
                segments,
                prefetched,
                static_cast<uint32_t>(shape.frame),
                0};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  return header;
}

void ReplayBuffer::put_header(Header header, const std::vector<Segment>& segments, const Sink& sink) const {
  header.checksum = crc32(0, &header, sizeof header - sizeof header.checksum);
  sink(&header, sizeof header);
  std::vector<SegmentNumbers> names;
  for (const Segment& segment : segments) names.push_back({segment.first, segment.last, segment.checksum, 0});
  put_chunk(sink, names.data(), names.size() * sizeof(SegmentNumbers));
}

void ReplayBuffer::put_task(int64_t task, const std::vector<Segment>& segments, const Sink& sink) const {
  const auto& ring = store_.ring(task);
  const int64_t oldest = ring.begin - (settings_.shape.frame > 0 && ring.begin > 0);
  const RingNumbers numbers{ring.begin, ring.end, ring.kept_begin, ring.kept_end, ring.open, 0};
  put_chunk(sink, &numbers, sizeof numbers);
  put_rows(task, segments.empty() ? oldest : std::max(oldest, segments.back().last), ring.end + ring.open,
           sink);
  std::vector<float> kept;
  for (uint32_t number = ring.kept_begin; number != ring.kept_end; ++number)
    kept.insert(kept.end(), store_.kept_of(ring, number),
                store_.kept_of(ring, number) + settings_.shape.observation);
  put_chunk(sink, kept.data(), kept.size() * sizeof(float));
  if (trees_.empty()) return;
  const auto runs = store_.runs_of(ring);
  for (int run = 0; run < 2; ++run)
    put_chunk(sink, trees_[task].leaves() + runs.first[run],
              (runs.last[run] - runs.first[run]) * sizeof(float));
}

void ReplayBuffer::put_prefetched(const std::vector<int64_t>& count, const BatchView& batch,
                                  const Sink& sink) const {
  if (count.empty()) return;
  put_chunk(sink, count.data(), count.size() * sizeof(int64_t));
  for (const Column& column : columns_of(settings_.shape, batch)) put_chunk(sink, column.data, column.bytes);
}

void ReplayBuffer::check_segments(const std::vector<Segment>& segments) const {
  for (size_t i = 0; i < segments.size(); ++i) {
    const int64_t first = segments[i].first, before = i == 0 ? first : segments[i - 1].last;
    if (first != before || first >= segments[i].last || segments[0].first > oldest_row() ||
        segments[i].last >= store_.end(0))
      throw std::invalid_argument("segment " + std::to_string(first) + " to " +
                                  std::to_string(segments[i].last) +
                                  " is not one of a run of settled transitions from the oldest on");
  }
}

void ReplayBuffer::save(const std::vector<Segment>& segments, const Sink& sink) {
  const auto lock = lock_after_prefetch();
  check_segments(segments);
  const int64_t tasks = settings_.shape.tasks, rows = prefetched_.count.empty() ? 0 : prefetched_.view.rows;
  put_header(header_of(tasks, static_cast<int64_t>(segments.size()), rows), segments, sink);
  for (int64_t task = 0; task < tasks; ++task) put_task(task, segments, sink);
  put_prefetched(prefetched_.count, prefetched_.view, sink);
}

// A checkpoint that is being read: its parts so far.
struct ReplayBuffer::Contents {
  Header header;
  Source source;
  std::vector<Segment> segments;
  std::vector<Source> rows;  // of each segment
  Span held{};               // the transitions whose rows are held
  Prefetched prefetched;
};

// The header and the segments' headers, checked.
ReplayBuffer::Contents ReplayBuffer::open(Bytes stream, const Segments& find, int64_t tasks) const {
  const auto& shape = settings_.shape;
  Source source(stream, "");
  const auto header = source.take<Header>("its header");
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) damaged("it is no replay checkpoint");
  check_same("format version", header.version, kVersion);
  if (header.checksum != crc32(0, &header, sizeof header - sizeof header.checksum)) damaged("its header");
  check_same("tasks", header.tasks, tasks);
  check_same("capacity", header.capacity, shape.capacity);
  check_same("observation size", header.observation, shape.observation);
  check_same("action size", header.action, shape.action);
  check_same<int64_t>("frame size", header.frame, shape.frame);
  check_same<int64_t>("prioritized", header.prioritized, !trees_.empty());
  if (header.prioritized != 0) {
    check_same("alpha", header.alpha, first_alpha_);
    if (!(header.present_alpha >= 0) || !std::isfinite(header.present_alpha) ||
        (header.present_alpha == 0) != (header.alpha == 0))
      damaged("its present alpha is " + std::to_string(header.present_alpha));
  }
  Contents contents{header, source, {}, {}, {}, {}};
  const uint8_t* names =
      contents.source.chunk(header.segments, sizeof(SegmentNumbers), "its list of segments");
  for (int64_t i = 0; i < header.segments; ++i) {
    SegmentNumbers numbers;
    std::memcpy(&numbers, names + i * sizeof numbers, sizeof numbers);
    const int64_t before = i == 0 ? numbers.first : contents.segments.back().last;
    if (numbers.first < 0 || numbers.first >= numbers.last || numbers.first != before)
      damaged("its segments leave transitions out");
    contents.segments.push_back({numbers.first, numbers.last, numbers.checksum});
  }
  for (const Segment& segment : contents.segments)
    contents.rows.push_back(open_segment(segment, find(segment), tasks));
  return contents;
}

ReplayBuffer::Source ReplayBuffer::open_segment(const Segment& segment, Bytes bytes, int64_t tasks) const {
  const std::string name = "segment " + std::to_string(segment.first);
  if (crc32(0, bytes.data, bytes.size) != segment.checksum) damaged(name + " does not match its checksum");
  Source source(bytes, name + "'s ");
  const auto header = source.take<SegmentHeader>("header");
  const SegmentHeader here{
      {}, kVersion, static_cast<uint32_t>(store_.bytes_per_row()), tasks, segment.first, segment.last, 0, 0};
  constexpr size_t kFrom = sizeof header.magic, kTo = sizeof header - sizeof header.checksum;
  if (std::memcmp(header.magic, kSegmentMagic, kFrom) != 0 || header.checksum != crc32(0, &header, kTo) ||
      std::memcmp(&header.version, &here.version, kTo - kFrom) != 0)
    damaged(name + " is of another replay");
  return source;
}

// Reads transitions [first, last) of a task. Those before `oldest` are skipped, the live ones are checked.
void ReplayBuffer::read_rows(Source& source, const std::string& name, int64_t task, Span rows, int64_t oldest,
                             TransitionStore::RowWalk& walk, bool apply) {
  const int64_t row_bytes = store_.bytes_per_row(), most = rows_of_chunk();
  for (int64_t at = rows.first, n; at < rows.last; at += n) {
    n = std::min(most, rows.last - at);
    const uint8_t* bytes = source.chunk(n, row_bytes, name + "rows");
    for (int64_t i = std::max<int64_t>(0, oldest - at); i < n; ++i)
      if (const char* wrong = walk.next(at + i, bytes + i * row_bytes))
        damaged(name + "transition " + std::to_string(at + i) + " " + wrong);
    for (int64_t i = std::max<int64_t>(0, oldest - at), here; apply && i < n; i += here) {
      const int64_t row = store_.row_of(at + i);
      here = std::min(n - i, store_.rows() - row);
      std::memcpy(store_.mutable_row(task, row), bytes + i * row_bytes, here * row_bytes);
    }
  }
}

// Reads the file's next task, number `number` of the file. With `apply` it becomes task `task` of this
// buffer.
void ReplayBuffer::read_task(Contents& file, int64_t number, int64_t task, bool apply) {
  const auto& shape = settings_.shape;
  const std::string name = "task " + std::to_string(number) + "'s ";
  RingNumbers numbers;
  std::memcpy(&numbers, file.source.chunk(1, sizeof numbers, name + "ring"), sizeof numbers);
  const uint32_t kept = numbers.kept_end - numbers.kept_begin;
  const bool possible = numbers.begin >= 0 && numbers.begin <= numbers.end &&
                        numbers.end <= kMostTransitions && numbers.end - numbers.begin <= shape.capacity &&
                        (numbers.begin == 0 || numbers.end - numbers.begin == shape.capacity) &&
                        kept <= numbers.end - numbers.begin && numbers.open <= 1;
  if (!possible) damaged(name + "ring is impossible");
  TransitionStore::Ring ring;
  ring.begin = numbers.begin;
  ring.end = numbers.end;
  ring.open = numbers.open != 0;
  ring.kept_begin = numbers.kept_begin;
  ring.kept_end = numbers.kept_end;
  const int64_t oldest = ring.begin - (shape.frame > 0 && ring.begin > 0);
  if (number == 0) {
    file.held = {oldest, ring.end};
    if (!file.segments.empty() &&
        (file.segments.front().first > oldest || file.segments.back().last >= ring.end))
      damaged("its segments leave transitions out");
  }
  if (oldest != file.held.first || ring.end != file.held.last)
    damaged(name + "ring is not as long as task 0's");

  TransitionStore::RowWalk walk(store_, ring);
  int64_t from = oldest;
  for (size_t i = 0; i < file.segments.size(); ++i) {
    const Segment& segment = file.segments[i];
    read_rows(file.rows[i], name, task, {segment.first, segment.last}, oldest, walk, apply);
    from = std::max(oldest, segment.last);
  }
  read_rows(file.source, name, task, {from, ring.end + ring.open}, oldest, walk, apply);
  if (const char* wrong = walk.end()) damaged(name + "ring " + wrong);
  const uint8_t* observations =
      file.source.chunk(kept, shape.observation * sizeof(float), name + "kept observations");
  if (apply) store_.restore(task, ring, kept, observations);
  if (!trees_.empty()) read_leaves(file.source, name, task, ring, apply);
}

void ReplayBuffer::read_leaves(Source& source, const std::string& name, int64_t task,
                               const TransitionStore::Ring& ring, bool apply) {
  std::vector<float> leaves(store_.rows());
  const auto runs = store_.runs_of(ring);
  for (int run = 0; run < 2; ++run) {
    const int64_t n = runs.last[run] - runs.first[run];
    const uint8_t* bytes = source.chunk(n, sizeof(float), name + "priorities");
    std::memcpy(leaves.data() + runs.first[run], bytes, n * sizeof(float));
  }
  // The runs hold the rows before and after the live ones too.
  const auto weight = [&](int64_t sequence) { return leaves[store_.row_of(sequence)]; };
  const bool outside = (ring.open && weight(ring.end) != 0) ||
                       (settings_.shape.frame > 0 && ring.begin > 0 && weight(ring.begin - 1) != 0);
  if (outside || !std::all_of(leaves.begin(), leaves.end(), is_weight))
    damaged(name + "priorities are not all finite and not negative, or of no transition");
  if (apply) trees_[task].fill(leaves.data());
}

// Reads what comes after the tasks.
void ReplayBuffer::read_end(Contents& file) const {
  if (file.header.prefetched != 0) read_prefetched(file);
  file.source.expect_end();
  for (const Source& segment : file.rows) segment.expect_end();
}

void ReplayBuffer::read_prefetched(Contents& file) const {
  const int64_t tasks = file.header.tasks, rows = file.header.prefetched;
  Prefetched& batch = file.prefetched;
  batch.count.resize(tasks);
  const size_t bytes = batch.count.size() * sizeof(int64_t);
  std::memcpy(batch.count.data(), file.source.chunk(tasks, sizeof(int64_t), "its batch's counts"), bytes);
  int64_t sum = 0;
  for (int64_t count : batch.count) {
    if (count < 0 || count > rows - sum) damaged("its batch's counts do not add up to its rows");
    sum += count;
  }
  // A row takes more than 32 bytes, so a batch that is there has fewer rows than this.
  if (sum != rows || rows > UINT32_MAX) damaged("its batch's counts do not add up to its rows");
  batch.view.rows = rows;
  batch.view.next = settings_.next;
  batch.drawn = true;
  // All columns' bytes are there before memory is taken for them.
  Source next = file.source;
  size_t words = 0;
  for (const Column& column : columns_of(settings_.shape, batch.view)) {
    next.chunk(1, column.bytes, "its batch");
    words += (column.bytes + 7) / 8;
  }
  batch.memory.resize(words);
  int64_t* at = batch.memory.data();
  const auto columns = columns_of(settings_.shape, batch.view);
  auto size = columns.begin();
  const auto read = [&](auto*& data) {
    data = reinterpret_cast<std::remove_reference_t<decltype(data)>>(at);
    const size_t n = size++->bytes;
    std::memcpy(at, file.source.chunk(1, n, "its batch"), n);
    at += (n + 7) / 8;
  };
  auto& view = batch.view;
  read(view.observation);
  read(view.action);
  read(view.reward);
  read(view.terminated);
  read(view.next_observation);
  read(view.task);
  read(view.weight);
  read(view.id);
  read(view.discount);
  int64_t row = 0;
  for (int64_t task = 0; task < tasks; ++task)
    for (int64_t i = 0; i < batch.count[task]; ++i, ++row)
      if (view.task[row] != task || view.id[row] < 0 || task_of(view.id[row]) != task ||
          sequence_of(view.id[row]) >= file.held.last)
        damaged("row " + std::to_string(row) + " of its batch is of no transition");
}

std::vector<ReplayBuffer::Segment> ReplayBuffer::load(Bytes stream, const Segments& find) {
  const auto lock = lock_after_prefetch();
  const int64_t tasks = settings_.shape.tasks;
  const Contents contents = open(stream, find, tasks);
  Contents last = contents;
  for (const bool apply : {false, true}) {  // nothing is changed before all has been checked
    last = contents;
    for (int64_t task = 0; task < tasks; ++task) read_task(last, task, task, apply);
    read_end(last);
  }
  settings_.seed = last.header.seed;
  draws_ = last.header.draws;
  settings_.alpha = last.header.present_alpha;
  prefetched_ = std::move(last.prefetched);
  return last.segments;
}

// One task after the other goes through task 0 of this buffer.
void ReplayBuffer::take_task(const Elsewhere& replay, int64_t task) {
  const RingImage image = replay.image_of(task);
  store_.take_image(0, image);
  if (!trees_.empty()) trees_[0].fill(image.leaves);
}

void ReplayBuffer::save_rows_elsewhere(const Elsewhere& replay, int64_t first, int64_t last,
                                       const Sink& sink) {
  const auto lock = this->lock();
  put_segment_header(replay.tasks, first, last, sink);
  for (int64_t task = 0; task < replay.tasks; ++task) {
    take_task(replay, task);
    check_settled(first, last);
    put_rows(0, first, last, sink);
  }
}

void ReplayBuffer::save_elsewhere(const Elsewhere& replay, const std::vector<Segment>& segments,
                                  const std::vector<int64_t>& count, const BatchView& batch,
                                  const Sink& sink) {
  const auto lock = this->lock();
  Header header =
      header_of(replay.tasks, static_cast<int64_t>(segments.size()), count.empty() ? 0 : batch.rows);
  header.seed = replay.seed;
  header.draws = replay.draws;
  header.present_alpha = replay.alpha;
  put_header(header, segments, sink);
  for (int64_t task = 0; task < replay.tasks; ++task) {
    take_task(replay, task);
    check_segments(segments);
    put_task(0, segments, sink);
  }
  put_prefetched(count, batch, sink);
}

std::vector<ReplayBuffer::Segment> ReplayBuffer::load_elsewhere(Elsewhere& replay, Bytes stream,
                                                                const Segments& find) {
  const auto lock = this->lock();
  const Contents contents = open(stream, find, replay.tasks);
  Contents last = contents;
  for (const bool apply : {false, true}) {
    last = contents;
    for (int64_t task = 0; task < replay.tasks; ++task) {
      read_task(last, task, 0, apply);
      if (!apply) continue;
      const RingImage image = replay.image_of(task);
      store_.give_image(0, image);
      if (!trees_.empty()) std::copy_n(trees_[0].leaves(), store_.rows(), image.leaves);
      replay.filled(task);
    }
    read_end(last);
  }
  replay.seed = last.header.seed;
  replay.draws = last.header.draws;
  replay.alpha = last.header.present_alpha;
  prefetched_ = std::move(last.prefetched);
  return last.segments;
}

void ReplayBuffer::take_prefetched(const BatchView& batch) {
  const auto lock = this->lock();
  if (prefetched_.count.empty() || prefetched_.view.rows != batch.rows)
    throw std::invalid_argument("no batch of " + std::to_string(batch.rows) + " rows was prefetched");
  give_prefetched(batch);
}
