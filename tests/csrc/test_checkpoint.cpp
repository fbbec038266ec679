// Checkpoints that were written by no replay, with checksums that are right: whatever is in them, the reader
// refuses them and changes nothing, or makes a replay that is valid and can be used. Run under the sanitizers
// (`make sanitize`). MTRL_MUTATIONS sets how many are tried of each kind of replay, MTRL_SEED the first seed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <string>

#include "replay/checked_file.h"
#include "replay/replay_buffer.h"

namespace {

constexpr int64_t kTasks = 2, kCapacity = 12, kFrame = 2, kObservation = 5, kAction = 1, kPerTask = 3;
constexpr size_t kHeader = 104, kSegmentHeader = 48, kChunkHeader = 8;

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

int64_t setting(const char* name, int64_t otherwise) {
  const char* given = std::getenv(name);
  return given ? std::atoll(given) : otherwise;
}

ReplayBuffer::Settings settings(bool stacked, Mode mode) {
  return {{kTasks, kCapacity, kObservation, kAction, stacked ? kFrame : 0},
          mode,
          0.6,
          0.4,
          7,
          best_instruction_set(),
          ""};
}

// Adds transitions of episodes that go on, end, and sometimes break off.
struct Feed {
  Random random{1};
  float time = 0;
  std::vector<float> now = observe({});

  // [frame, previous frame, goal] where `before` is an observation.
  std::vector<float> observe(const std::vector<float>& before) {
    std::vector<float> next(kTasks * kObservation, ++time);
    for (int64_t task = 0; task < kTasks && !before.empty(); ++task) {
      const int64_t at = task * kObservation;
      std::copy_n(before.begin() + at, kFrame, next.begin() + at + kFrame);
      std::copy_n(before.begin() + at + 2 * kFrame, kObservation - 2 * kFrame,
                  next.begin() + at + 2 * kFrame);
    }
    return next;
  }

  void add(ReplayBuffer& buffer, int64_t steps) {
    for (int64_t step = 0; step < steps; ++step) {
      const std::vector<float> next = observe(now), action(kTasks * kAction, time), reward(kTasks, time);
      const bool ended[kTasks] = {random() % 4 == 0, random() % 7 == 0}, no[kTasks] = {};
      buffer.add(now.data(), action.data(), reward.data(), ended, no, next.data());
      now = next;
      const std::vector<float> fresh = observe({});
      for (int64_t task = 0; task < kTasks; ++task)
        if (ended[task] || random() % 9 == 0)
          std::copy_n(fresh.begin() + task * kObservation, kObservation, now.begin() + task * kObservation);
    }
  }
};

struct Batch {
  int64_t rows = kTasks * kPerTask;
  std::vector<float> floats = std::vector<float>(rows * (2 * kObservation + kAction + 4));
  std::vector<int64_t> task = std::vector<int64_t>(rows), id = std::vector<int64_t>(rows);
  BatchView view() {
    float* at = floats.data();
    const auto take = [&](int64_t n) { return std::exchange(at, at + n); };
    return {rows,
            take(rows * kObservation),
            take(rows * kAction),
            take(rows),
            take(rows),
            take(rows * kObservation),
            task.data(),
            take(rows),
            id.data(),
            take(rows)};
  }
};

// A checkpoint in memory: the stream and its segments' files.
struct File {
  Bytes stream;
  std::vector<std::pair<ReplayBuffer::Segment, Bytes>> segments;
};

ReplayBuffer::Sink into(Bytes& bytes) {
  return [&bytes](const void* from, size_t n) {
    const auto* first = static_cast<const uint8_t*>(from);
    bytes.insert(bytes.end(), first, first + n);
  };
}

File save(ReplayBuffer& buffer, std::vector<ReplayBuffer::Span> spans) {
  File file;
  std::vector<ReplayBuffer::Segment> named;
  for (const auto& span : spans) {
    Bytes rows;
    buffer.save_rows(span.first, span.last, into(rows));
    named.push_back({span.first, span.last, crc32(0, rows.data(), rows.size())});
    file.segments.emplace_back(named.back(), rows);
  }
  buffer.save(named, into(file.stream));
  return file;
}

void load(ReplayBuffer& buffer, const File& file) {
  size_t next = 0;
  buffer.load({file.stream.data(), file.stream.size()}, [&](const auto&) -> ReplayBuffer::Bytes {
    if (next == file.segments.size()) throw std::invalid_argument("no such segment");
    const Bytes& rows = file.segments[next++].second;
    return {rows.data(), rows.size()};
  });
}

template <class T>
T get(const Bytes& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <class T>
void put(Bytes& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

// Where the chunks begin, as far as they are whole.
std::vector<size_t> chunks_of(const Bytes& bytes, size_t header) {
  std::vector<size_t> chunks;
  for (size_t at = header; at + kChunkHeader <= bytes.size();) {
    const size_t end = at + kChunkHeader + get<uint32_t>(bytes, at);
    if (end > bytes.size()) break;
    chunks.push_back(at);
    at = end;
  }
  return chunks;
}

void repair(Bytes& bytes, size_t header) {
  if (bytes.size() < header) return;
  put(bytes, header - 4, crc32(0, bytes.data(), header - 4));
  for (size_t at : chunks_of(bytes, header))
    put(bytes, at + 4, crc32(0, bytes.data() + at + kChunkHeader, get<uint32_t>(bytes, at)));
}

// Changes one thing: a bit, a number, or which chunks there are.
void mutate(Bytes& bytes, size_t header, Random& random) {
  const std::vector<size_t> chunks = chunks_of(bytes, header);
  const auto any = [&](size_t n) { return static_cast<size_t>(random() % n); };
  // Half of them in the header or in a chunk's first numbers, where the sizes stand.
  size_t at = any(bytes.size());
  if (any(2) == 0 || chunks.empty())
    at = any(std::min(bytes.size(), header));
  else if (any(2) == 0)
    at = chunks[any(chunks.size())] + any(2) * kChunkHeader;
  at = at / 4 * 4;
  const int64_t numbers[] = {0,
                             1,
                             -1,
                             2,
                             7,
                             INT64_MAX,
                             INT64_MIN,
                             int64_t{1} << 31,
                             int64_t{1} << 40,
                             UINT32_MAX,
                             kCapacity,
                             kCapacity + 1,
                             static_cast<int64_t>(random())};
  const int64_t number = numbers[any(std::size(numbers))];
  switch (any(8)) {
    case 0:
    case 1:
      bytes[std::min(at + any(4), bytes.size() - 1)] ^= 1 << any(8);
      break;
    case 2:
      if (at + 8 <= bytes.size()) put(bytes, at, get<int64_t>(bytes, at) + static_cast<int64_t>(any(5)) - 2);
      break;
    case 3:
      if (at + 8 <= bytes.size()) put(bytes, at, number);
      break;
    case 4:
    case 5:
      if (at + 4 <= bytes.size()) put(bytes, at, static_cast<uint32_t>(number));
      break;
    case 6:
      if (any(4) == 0) bytes.resize(any(bytes.size()) + 1);
      break;
    default:
      if (chunks.size() > 1) {  // a chunk goes, or comes twice
        const size_t which = any(chunks.size() - 1);
        const auto first = bytes.begin() + static_cast<int64_t>(chunks[which]),
                   last = bytes.begin() + static_cast<int64_t>(chunks[which + 1]);
        const Bytes chunk(first, last);
        if (any(2) == 0)
          bytes.erase(first, last);
        else
          bytes.insert(last, chunk.begin(), chunk.end());
      }
  }
}

File mutant_of(const File& good, Random& random) {
  File file = good;
  for (uint64_t n = 1 + random() % 3; n > 0; --n) {
    if (file.segments.empty() || random() % 3 != 0) {
      mutate(file.stream, kHeader, random);
      continue;
    }
    Bytes& rows = file.segments[random() % file.segments.size()].second;
    mutate(rows, kSegmentHeader, random);
    repair(rows, kSegmentHeader);
  }
  for (size_t i = 0; i < file.segments.size(); ++i) {  // the list of segments is the first chunk
    const size_t at = kHeader + kChunkHeader + 24 * i + 16;
    const Bytes& rows = file.segments[i].second;
    if (at + 4 <= file.stream.size()) put(file.stream, at, crc32(0, rows.data(), rows.size()));
  }
  repair(file.stream, kHeader);
  return file;
}

// Whatever a run does with its replay.
void use(ReplayBuffer& buffer, const ReplayBuffer::Settings& settings) {
  Batch batch;
  Feed feed;
  const std::vector<int64_t> count(kTasks, kPerTask);
  for (int64_t round = 0; round < 6; ++round) {
    try {
      buffer.sample(count.data(), batch.view());
      if (is_prioritized(settings.mode)) {
        const std::vector<double> priority(batch.rows, 0.5 + static_cast<double>(round));
        buffer.update_priorities(batch.id.data(), priority.data(), batch.rows);
      }
    } catch (const std::invalid_argument&) {  // all priorities are zero, say
    }
    feed.add(buffer, 3 * round);
    ASSERT_EQ(buffer.check(), "");
  }
  ReplayBuffer again(settings);
  try {
    load(again, save(buffer, {}));
  } catch (const std::invalid_argument& error) {  // transitions may have come near the most there can be
    EXPECT_NE(std::string(error.what()).find("impossible"), std::string::npos) << error.what();
  }
}

class Mutations : public testing::TestWithParam<std::tuple<bool, Mode, int>> {};

TEST_P(Mutations, AreRefusedOrValid) {
  const auto [stacked, mode, segments] = GetParam();
  ReplayBuffer buffer(settings(stacked, mode));
  Feed().add(buffer, segments == 0 ? 7 : 40);
  Batch batch, prefetched;
  const std::vector<int64_t> count(kTasks, kPerTask);
  buffer.sample(count.data(), batch.view());
  if (segments != 1) buffer.prefetch(count.data(), prefetched.view(), false);
  const ReplayBuffer::Span rows = buffer.settled_rows();
  const int64_t middle = (rows.first + rows.last) / 2;
  const File good =
      segments == 0 ? save(buffer, {}) : save(buffer, {{rows.first, middle}, {middle, rows.last}});
  {
    ReplayBuffer other(settings(stacked, mode));
    load(other, good);
    Bytes one, two;
    buffer.save({}, into(one));
    other.save({}, into(two));
    ASSERT_EQ(one, two);
  }
  int64_t loaded = 0;
  const int64_t seed = setting("MTRL_SEED", 0), mutations = setting("MTRL_MUTATIONS", 400);
  for (int64_t n = seed; n < seed + mutations; ++n) {
    SCOPED_TRACE("MTRL_SEED=" + std::to_string(n));
    Random random(n);
    const File bad = mutant_of(good, random);
    ReplayBuffer other(settings(stacked, mode));
    Feed().add(other, 2);
    try {
      load(other, bad);
      ++loaded;
    } catch (const std::invalid_argument&) {
      ASSERT_EQ(other.size(), std::vector<int64_t>(kTasks, 2));
    }
    ASSERT_EQ(other.check(), "");
    use(other, settings(stacked, mode));
  }
  EXPECT_GT(loaded, mutations / 50);  // or what comes after loading is not tried
  EXPECT_LT(loaded, mutations * 9 / 10);
}

INSTANTIATE_TEST_SUITE_P(Checkpoint, Mutations,
                         testing::Combine(testing::Bool(), testing::Values(Mode::uniform, Mode::prioritized),
                                          testing::Values(0, 1, 2)));

}  // namespace
