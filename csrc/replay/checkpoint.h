#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "replay/checked_file.h"
#include "replay/replay_buffer.h"

// The replay's checkpoint, for the sources that write it (checkpoint_save.cpp), read it (checkpoint_load.cpp)
// and do both for a replay that lies elsewhere (checkpoint_elsewhere.cpp).
//
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
namespace checkpoint {

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

[[noreturn]] inline void damaged(const std::string& what) {
  throw std::invalid_argument("the replay checkpoint is damaged: " + what);
}

}  // namespace checkpoint

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
    if (n > left_) checkpoint::damaged("it ends inside " + whose_ + what);
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
    const auto header = take<checkpoint::ChunkHeader>(what);
    if (count < 0 || static_cast<uint64_t>(count) > UINT32_MAX / size || header.bytes != count * size)
      checkpoint::damaged(whose_ + what + " has the wrong length");
    const uint8_t* bytes = take(header.bytes, what);
    if (crc32(0, bytes, header.bytes) != header.checksum)
      checkpoint::damaged(whose_ + what + " does not match its checksum");
    return bytes;
  }

  void expect_end() const {
    if (left_ != 0) checkpoint::damaged("there is more after its end" + whose_);
  }

 private:
  const uint8_t* at_;
  size_t left_;
  std::string whose_;
};

// A checkpoint that is being read: its parts so far.
struct ReplayBuffer::Contents {
  Header header;
  Source source;
  std::vector<Segment> segments;
  std::vector<Source> rows;  // of each segment
  Span held{};               // the transitions whose rows are held
  Prefetched prefetched;
};
