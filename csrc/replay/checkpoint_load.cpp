#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "replay/checkpoint.h"

using namespace checkpoint;

namespace {

template <class T>
void check_same(const char* field, T file, T here) {
  if (file != here)
    throw std::invalid_argument(std::string("the replay checkpoint has ") + field + " = " +
                                std::to_string(file) + ", this replay has " + std::to_string(here));
}

bool is_weight(float leaf) { return leaf >= 0 && std::isfinite(leaf); }

}  // namespace

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
