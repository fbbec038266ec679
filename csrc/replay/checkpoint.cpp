#include "replay/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "replay/replay_buffer.h"

// The format, little-endian as the machines are:
//   Header                                   with its own checksum
//   a chunk of the segments' numbers: which transitions' rows are in other files, a run of them
//   per task: a chunk with the Ring's numbers; chunks of those of its live rows that are in no segment,
//   oldest first (an open row after the newest included), at most kChunk bytes each; a chunk of its kept
//   observations, oldest first; where prioritized, a chunk of its live leaves, oldest first.
//   where a batch was drawn ahead: a chunk of its counts and one of each column.
// A chunk is a ChunkHeader and that many bytes. A segment is a SegmentHeader and, per task, chunks of its
// rows.

namespace {

constexpr char kMagic[8] = {'m', 't', 'r', 'l', 'R', 'P', 'L', 'Y'};
constexpr char kSegmentMagic[8] = {'m', 't', 'r', 'l', 'R', 'O', 'W', 'S'};
constexpr uint32_t kVersion = 3;
constexpr int64_t kChunk = int64_t{1} << 20;

struct Header {
  char magic[8];
  uint32_t version, prioritized;
  int64_t tasks, capacity, observation, action;
  uint64_t seed, draws;
  double alpha, present_alpha;  // at first and by now
  int64_t segments, ahead;      // how many segments; rows of the batch drawn ahead
  uint32_t frame, checksum;     // the latter of the bytes before it
};

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

using Tables = std::array<std::array<uint32_t, 256>, 8>;

Tables make_tables() {
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0xEDB88320u : 0u);
    tables[0][i] = value;
  }
  for (int k = 1; k < 8; ++k)
    for (int i = 0; i < 256; ++i) tables[k][i] = (tables[k - 1][i] >> 8) ^ tables[0][tables[k - 1][i] & 255];
  return tables;
}

void put_chunk(const ReplayBuffer::Sink& sink, const void* bytes, size_t n) {
  const ChunkHeader header{static_cast<uint32_t>(n), crc32(0, bytes, n)};
  sink(&header, sizeof header);
  sink(bytes, n);
}

[[noreturn]] void damaged(const std::string& what) {
  throw std::invalid_argument("the replay checkpoint is damaged: " + what);
}

}  // namespace

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

  // The bytes of the next chunk, which must be `n` with the right checksum.
  const uint8_t* chunk(size_t n, const std::string& what) {
    ChunkHeader header;
    std::memcpy(&header, take(sizeof header, what), sizeof header);
    if (header.bytes != n) damaged(whose_ + what + " has the wrong length");
    const uint8_t* bytes = take(n, what);
    if (crc32(0, bytes, n) != header.checksum) damaged(whose_ + what + " does not match its checksum");
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

namespace {

void check_same(const char* field, int64_t file, int64_t here) {
  if (file != here)
    throw std::invalid_argument(std::string("the replay checkpoint has ") + field + " = " +
                                std::to_string(file) + ", this replay has " + std::to_string(here));
}

}  // namespace

uint32_t crc32(uint32_t before, const void* bytes, size_t n) {
  static const Tables table = make_tables();
  const auto* at = static_cast<const uint8_t*>(bytes);
  uint32_t value = ~before;
  for (; n >= 8; n -= 8, at += 8) {
    uint32_t low, high;
    std::memcpy(&low, at, 4);
    std::memcpy(&high, at + 4, 4);
    low ^= value;
    value = table[7][low & 255] ^ table[6][(low >> 8) & 255] ^ table[5][(low >> 16) & 255] ^
            table[4][low >> 24] ^ table[3][high & 255] ^ table[2][(high >> 8) & 255] ^
            table[1][(high >> 16) & 255] ^ table[0][high >> 24];
  }
  for (; n > 0; --n) value = (value >> 8) ^ table[0][(value ^ *at++) & 255];
  return ~value;
}

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
  const std::lock_guard<std::mutex> lock(mutex_);
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
    const ChunkHeader header{static_cast<uint32_t>(here + there), crc32(crc32(0, head, here), tail, there)};
    sink(&header, sizeof header);
    sink(head, here);
    sink(tail, there);
  }
}

void ReplayBuffer::save_rows(int64_t first, int64_t last, const Sink& sink) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (first < oldest_row() || last > store_.end(0) - 1 || first >= last)
    throw std::invalid_argument("the rows of transitions " + std::to_string(first) + " to " +
                                std::to_string(last) + " are not all there to be saved");
  SegmentHeader header{
      {}, kVersion, static_cast<uint32_t>(store_.bytes_per_row()), settings_.shape.tasks, first, last, 0, 0};
  std::memcpy(header.magic, kSegmentMagic, sizeof kSegmentMagic);
  header.checksum = crc32(0, &header, sizeof header - sizeof header.checksum);
  sink(&header, sizeof header);
  for (int64_t task = 0; task < settings_.shape.tasks; ++task) put_rows(task, first, last, sink);
}

void ReplayBuffer::save(const std::vector<Segment>& segments, const Sink& sink) {
  const auto lock = settled();
  const auto& shape = settings_.shape;
  Header header{{},
                kVersion,
                !trees_.empty(),
                shape.tasks,
                shape.capacity,
                shape.observation,
                shape.action,
                settings_.seed,
                draws_,
                first_alpha_,
                settings_.alpha,
                static_cast<int64_t>(segments.size()),
                ahead_.count.empty() ? 0 : ahead_.view.rows,
                static_cast<uint32_t>(shape.frame),
                0};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.checksum = crc32(0, &header, sizeof header - sizeof header.checksum);
  sink(&header, sizeof header);
  std::vector<SegmentNumbers> names;
  for (const Segment& segment : segments) names.push_back({segment.first, segment.last, segment.checksum, 0});
  put_chunk(sink, names.data(), names.size() * sizeof(SegmentNumbers));
  for (int64_t task = 0; task < shape.tasks; ++task) {
    const auto& ring = store_.ring(task);
    const RingNumbers numbers{ring.begin, ring.end, ring.kept_begin, ring.kept_end, ring.open, 0};
    put_chunk(sink, &numbers, sizeof numbers);
    put_rows(task, segments.empty() ? oldest_row() : std::max(oldest_row(), segments.back().last),
             ring.end + ring.open, sink);
    std::vector<float> kept;
    for (uint32_t number = ring.kept_begin; number != ring.kept_end; ++number)
      kept.insert(kept.end(), store_.kept_of(ring, number), store_.kept_of(ring, number) + shape.observation);
    put_chunk(sink, kept.data(), kept.size() * sizeof(float));
    if (trees_.empty()) continue;
    const auto runs = store_.runs_of(ring);
    for (int run = 0; run < 2; ++run)
      put_chunk(sink, trees_[task].leaves() + runs.first[run],
                (runs.last[run] - runs.first[run]) * sizeof(float));
  }
  if (ahead_.count.empty()) return;
  put_chunk(sink, ahead_.count.data(), ahead_.count.size() * sizeof(int64_t));
  for (const Column& column : columns_of(shape, ahead_.view)) put_chunk(sink, column.data, column.bytes);
}

std::vector<ReplayBuffer::Segment> ReplayBuffer::load(Bytes stream, const Segments& find) {
  const auto lock = settled();
  const auto& shape = settings_.shape;
  Source source(stream, "");
  Header header;
  std::memcpy(&header, source.take(sizeof header, "its header"), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) damaged("it is no replay checkpoint");
  check_same("format version", header.version, kVersion);
  if (header.checksum != crc32(0, &header, sizeof header - sizeof header.checksum)) damaged("its header");
  check_same("tasks", header.tasks, shape.tasks);
  check_same("capacity", header.capacity, shape.capacity);
  check_same("observation size", header.observation, shape.observation);
  check_same("action size", header.action, shape.action);
  check_same("frame size", header.frame, shape.frame);
  check_same("prioritized", header.prioritized, !trees_.empty());
  if (header.prioritized != 0 && header.alpha != first_alpha_)
    throw std::invalid_argument("the replay checkpoint has alpha = " + std::to_string(header.alpha) +
                                ", this replay has " + std::to_string(first_alpha_));
  std::vector<Segment> segments;
  const uint8_t* names = source.chunk(header.segments * sizeof(SegmentNumbers), "its list of segments");
  for (int64_t i = 0; i < header.segments; ++i) {
    SegmentNumbers numbers;
    std::memcpy(&numbers, names + i * sizeof numbers, sizeof numbers);
    segments.push_back({numbers.first, numbers.last, numbers.checksum});
  }
  std::vector<Source> rows;
  for (const Segment& segment : segments) {
    const Bytes bytes = find(segment);
    const std::string name = "segment " + std::to_string(segment.first);
    if (crc32(0, bytes.data, bytes.size) != segment.checksum) damaged(name + " does not match its checksum");
    rows.emplace_back(bytes, name + "'s ");
  }
  Ahead ahead;
  for (const bool apply : {false, true}) {  // nothing is changed before all has been checked
    Source again = source;
    const Span held = read_tasks(again, segments, apply);
    if (header.ahead > 0) ahead = read_ahead(again, header.ahead);
    again.expect_end();
    for (size_t i = 0; i < segments.size(); ++i) {
      if (segments[i].first != (i == 0 ? segments[i].first : segments[i - 1].last) ||
          segments[0].first > held.first || segments[i].last >= held.last)
        damaged("its segments leave transitions out");
      Source segment = rows[i];
      read_segment(segment, segments[i], held.first, apply);
    }
  }
  settings_.seed = header.seed;
  draws_ = header.draws;
  settings_.alpha = header.present_alpha;
  ahead_ = std::move(ahead);
  return segments;
}
void ReplayBuffer::read_rows(Source& source, int64_t task, int64_t first, int64_t last, int64_t oldest,
                             bool apply) {
  const int64_t row_bytes = store_.bytes_per_row(), most = rows_of_chunk();
  for (int64_t at = first, n; at < last; at += n) {
    n = std::min(most, last - at);
    const uint8_t* rows = source.chunk(n * row_bytes, "task " + std::to_string(task) + "'s rows");
    if (!apply) continue;
    for (int64_t i = std::max<int64_t>(0, oldest - at), here; i < n; i += here) {
      const int64_t row = store_.row_of(at + i);
      here = std::min(n - i, store_.rows() - row);
      std::memcpy(store_.mutable_row(task, row), rows + i * row_bytes, here * row_bytes);
    }
  }
}

void ReplayBuffer::read_segment(Source& source, const Segment& segment, int64_t oldest, bool apply) {
  SegmentHeader header;
  std::memcpy(&header, source.take(sizeof header, "header"), sizeof header);
  const SegmentHeader here{{},
                           kVersion,
                           static_cast<uint32_t>(store_.bytes_per_row()),
                           settings_.shape.tasks,
                           segment.first,
                           segment.last,
                           0,
                           0};
  constexpr size_t kFrom = sizeof header.magic, kTo = sizeof header - sizeof header.checksum;
  if (std::memcmp(header.magic, kSegmentMagic, kFrom) != 0 || header.checksum != crc32(0, &header, kTo) ||
      std::memcmp(&header.version, &here.version, kTo - kFrom) != 0)
    damaged("segment " + std::to_string(segment.first) + " is of another replay");
  for (int64_t task = 0; task < settings_.shape.tasks; ++task)
    read_rows(source, task, segment.first, segment.last, oldest, apply);
  source.expect_end();
}

ReplayBuffer::Ahead ReplayBuffer::read_ahead(Source& source, int64_t rows) const {
  Ahead ahead;
  const auto tasks = static_cast<size_t>(settings_.shape.tasks);
  ahead.count.resize(tasks);
  std::memcpy(ahead.count.data(), source.chunk(tasks * sizeof(int64_t), "its batch's counts"),
              tasks * sizeof(int64_t));
  ahead.view.rows = rows;
  ahead.view.next = settings_.next;
  ahead.drawn = true;
  size_t words = 0;
  for (const Column& column : columns_of(settings_.shape, ahead.view)) words += (column.bytes + 7) / 8;
  ahead.memory.resize(words);
  int64_t* at = ahead.memory.data();
  const auto read = [&](auto*& data, size_t bytes) {
    data = reinterpret_cast<std::remove_reference_t<decltype(data)>>(at);
    std::memcpy(at, source.chunk(bytes, "its batch"), bytes);
    at += (bytes + 7) / 8;
  };
  const auto sizes = columns_of(settings_.shape, ahead.view);
  auto& view = ahead.view;
  read(view.observation, sizes[0].bytes);
  read(view.action, sizes[1].bytes);
  read(view.reward, sizes[2].bytes);
  read(view.terminated, sizes[3].bytes);
  read(view.next_observation, sizes[4].bytes);
  read(view.task, sizes[5].bytes);
  read(view.weight, sizes[6].bytes);
  read(view.id, sizes[7].bytes);
  read(view.discount, sizes[8].bytes);
  return ahead;
}

// Returns the transitions whose rows are held, an open row included.
ReplayBuffer::Span ReplayBuffer::read_tasks(Source& source, const std::vector<Segment>& segments,
                                            bool apply) {
  const auto& shape = settings_.shape;
  Span held{};
  for (int64_t task = 0; task < shape.tasks; ++task) {
    const std::string name = "task " + std::to_string(task) + "'s ";
    RingNumbers numbers;
    std::memcpy(&numbers, source.chunk(sizeof numbers, name + "ring"), sizeof numbers);
    const uint32_t kept = numbers.kept_end - numbers.kept_begin;
    if (numbers.begin < 0 || numbers.end < numbers.begin || numbers.end - numbers.begin > shape.capacity ||
        kept > numbers.end - numbers.begin)
      damaged(name + "ring is impossible");
    TransitionStore::Ring ring;
    ring.begin = numbers.begin;
    ring.end = numbers.end;
    ring.open = numbers.open != 0;
    const int64_t oldest = ring.begin - (shape.frame > 0 && ring.begin > 0);
    if (task == 0) held = {oldest, ring.end};
    if (oldest != held.first || ring.end != held.last) damaged(name + "ring is not as long as task 0's");
    read_rows(source, task, segments.empty() ? oldest : std::max(oldest, segments.back().last),
              ring.end + ring.open, oldest, apply);
    const auto runs = store_.runs_of(ring);
    const uint8_t* observations =
        source.chunk(kept * shape.observation * sizeof(float), name + "kept observations");
    if (apply) store_.restore(task, ring, numbers.kept_begin, kept, observations);
    if (trees_.empty()) continue;
    std::vector<float> leaves(store_.rows());
    for (int run = 0; run < 2; ++run) {
      const size_t bytes = (runs.last[run] - runs.first[run]) * sizeof(float);
      std::memcpy(leaves.data() + runs.first[run], source.chunk(bytes, name + "priorities"), bytes);
    }
    if (apply) trees_[task].fill(leaves.data());
  }
  return held;
}

namespace {

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw std::runtime_error(what + " " + path + ": " + std::strerror(errno));
}

// Closes, and unmaps nothing, whatever happens.
class File {
 public:
  File(const std::string& path, int flags)
      : path_(path), handle_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (handle_ < 0) fail("cannot open", path);
  }
  ~File() { close(handle_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int handle() const { return handle_; }

  void put(const void* bytes, size_t n) const {
    for (const char* at = static_cast<const char*>(bytes); n > 0;) {
      const ssize_t put = ::write(handle_, at, n);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail("cannot write", path_);
      at += put;
      n -= static_cast<size_t>(put);
    }
  }
  void sync() const {
    if (fsync(handle_) != 0) fail("cannot sync", path_);
  }

 private:
  std::string path_;
  int handle_;
};

}  // namespace

uint32_t write_file(const std::string& path, const std::function<void(const ReplayBuffer::Sink&)>& write) {
  const std::string unfinished = path + ".unfinished";
  uint32_t checksum = 0;
  try {
    const File file(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
    write([&](const void* bytes, size_t n) {
      checksum = crc32(checksum, bytes, n);
      file.put(bytes, n);
    });
    file.sync();
  } catch (...) {
    unlink(unfinished.c_str());
    throw;
  }
  if (rename(unfinished.c_str(), path.c_str()) != 0) fail("cannot rename to", path);
  const size_t slash = path.rfind('/');
  File(slash == std::string::npos ? "." : path.substr(0, slash + 1), O_RDONLY | O_DIRECTORY).sync();
  return checksum;
}

MappedFile::MappedFile(const std::string& path) {
  const File file(path, O_RDONLY);
  struct stat status;
  if (fstat(file.handle(), &status) != 0) fail("cannot read", path);
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  void* mapping = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.handle(), 0);
  if (mapping == MAP_FAILED) fail("cannot read", path);
  madvise(mapping, size_, MADV_SEQUENTIAL);
  data_ = static_cast<const uint8_t*>(mapping);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}
