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
//   per task: a chunk with the Ring's numbers; chunks of its live rows, oldest first (an open row after the
//   newest included), at most kChunk bytes each; a chunk of its kept observations, oldest first; where
//   prioritized, a chunk of its live leaves, oldest first.
// A chunk is a ChunkHeader and that many bytes.

namespace {

constexpr char kMagic[8] = {'m', 't', 'r', 'l', 'R', 'P', 'L', 'Y'};
constexpr uint32_t kVersion = 2;
constexpr int64_t kChunk = int64_t{1} << 20;

struct Header {
  char magic[8];
  uint32_t version, prioritized;
  int64_t tasks, capacity, observation, action;
  uint64_t seed, draws;
  double alpha, present_alpha;  // at first and by now
  uint32_t frame, checksum;     // the latter of the bytes before it
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
  Source(const uint8_t* bytes, size_t n) : at_(bytes), left_(n) {}

  const uint8_t* take(size_t n, const std::string& what) {
    if (n > left_) damaged("it ends inside " + what);
    const uint8_t* taken = at_;
    at_ += n;
    left_ -= n;
    return taken;
  }

  // The bytes of the next chunk, which must be `n` with the right checksum.
  const uint8_t* chunk(size_t n, const std::string& what) {
    ChunkHeader header;
    std::memcpy(&header, take(sizeof header, what), sizeof header);
    if (header.bytes != n) damaged(what + " has the wrong length");
    const uint8_t* bytes = take(n, what);
    if (crc32(0, bytes, n) != header.checksum) damaged(what + " does not match its checksum");
    return bytes;
  }

  void expect_end() const {
    if (left_ != 0) damaged("there is more after its end");
  }

 private:
  const uint8_t* at_;
  size_t left_;
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

void ReplayBuffer::save(const Sink& sink) const {
  const std::lock_guard<std::mutex> lock(mutex_);
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
                static_cast<uint32_t>(shape.frame),
                0};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.checksum = crc32(0, &header, sizeof header - sizeof header.checksum);
  sink(&header, sizeof header);
  const int64_t row_bytes = store_.bytes_per_row(), chunk_rows = std::max<int64_t>(1, kChunk / row_bytes);
  for (int64_t task = 0; task < shape.tasks; ++task) {
    const auto& ring = store_.ring(task);
    const RingNumbers numbers{ring.begin, ring.end, ring.kept_begin, ring.kept_end, ring.open, 0};
    put_chunk(sink, &numbers, sizeof numbers);
    const auto runs = store_.runs_of(ring);
    for (int run = 0; run < 2; ++run)
      for (int64_t row = runs.first[run]; row < runs.last[run]; row += chunk_rows)
        put_chunk(sink, store_.row(task, row), std::min(chunk_rows, runs.last[run] - row) * row_bytes);
    std::vector<float> kept;
    for (uint32_t number = ring.kept_begin; number != ring.kept_end; ++number)
      kept.insert(kept.end(), store_.kept_of(ring, number), store_.kept_of(ring, number) + shape.observation);
    put_chunk(sink, kept.data(), kept.size() * sizeof(float));
    if (trees_.empty()) continue;
    for (int run = 0; run < 2; ++run)
      put_chunk(sink, trees_[task].leaves() + runs.first[run],
                (runs.last[run] - runs.first[run]) * sizeof(float));
  }
}

void ReplayBuffer::load(const uint8_t* bytes, size_t n) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto& shape = settings_.shape;
  Source source(bytes, n);
  Header header;
  std::memcpy(&header, source.take(sizeof header, "its header"), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) damaged("it is no replay checkpoint");
  if (header.checksum != crc32(0, &header, sizeof header - sizeof header.checksum)) damaged("its header");
  check_same("format version", header.version, kVersion);
  check_same("tasks", header.tasks, shape.tasks);
  check_same("capacity", header.capacity, shape.capacity);
  check_same("observation size", header.observation, shape.observation);
  check_same("action size", header.action, shape.action);
  check_same("frame size", header.frame, shape.frame);
  check_same("prioritized", header.prioritized, !trees_.empty());
  if (header.prioritized != 0 && header.alpha != first_alpha_)
    throw std::invalid_argument("the replay checkpoint has alpha = " + std::to_string(header.alpha) +
                                ", this replay has " + std::to_string(first_alpha_));
  Source twice = source;
  read_tasks(source, false);
  source.expect_end();
  read_tasks(twice, true);
  settings_.seed = header.seed;
  draws_ = header.draws;
  settings_.alpha = header.present_alpha;
}

void ReplayBuffer::read_tasks(Source& source, bool apply) {
  const auto& shape = settings_.shape;
  const int64_t row_bytes = store_.bytes_per_row(), chunk_rows = std::max<int64_t>(1, kChunk / row_bytes);
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
    const auto runs = store_.runs_of(ring);
    for (int run = 0; run < 2; ++run)
      for (int64_t row = runs.first[run]; row < runs.last[run]; row += chunk_rows) {
        const size_t bytes = std::min(chunk_rows, runs.last[run] - row) * row_bytes;
        const uint8_t* rows = source.chunk(bytes, name + "rows");
        if (apply) std::memcpy(store_.mutable_row(task, row), rows, bytes);
      }
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

void write_file(const std::string& path, const std::function<void(const ReplayBuffer::Sink&)>& write) {
  const std::string unfinished = path + ".unfinished";
  try {
    const File file(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
    write([&](const void* bytes, size_t n) { file.put(bytes, n); });
    file.sync();
  } catch (...) {
    unlink(unfinished.c_str());
    throw;
  }
  if (rename(unfinished.c_str(), path.c_str()) != 0) fail("cannot rename to", path);
  const size_t slash = path.rfind('/');
  File(slash == std::string::npos ? "." : path.substr(0, slash + 1), O_RDONLY | O_DIRECTORY).sync();
}

void read_file(const std::string& path, const std::function<void(const uint8_t*, size_t)>& read) {
  const File file(path, O_RDONLY);
  struct stat status;
  if (fstat(file.handle(), &status) != 0) fail("cannot read", path);
  const auto bytes = static_cast<size_t>(status.st_size);
  if (bytes == 0) return read(nullptr, 0);
  void* mapping = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.handle(), 0);
  if (mapping == MAP_FAILED) fail("cannot read", path);
  madvise(mapping, bytes, MADV_SEQUENTIAL);
  struct Unmap {
    void* mapping;
    size_t bytes;
    ~Unmap() { munmap(mapping, bytes); }
  } const unmap{mapping, bytes};
  read(static_cast<const uint8_t*>(mapping), bytes);
}
