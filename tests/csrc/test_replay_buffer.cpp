#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "replay/replay_buffer.h"

namespace {

constexpr int64_t kTasks = 3, kObservation = 5, kAction = 2;

struct Batch {
  Batch(const Batch&) = delete;
  explicit Batch(int64_t rows) : floats(rows * (2 * kObservation + kAction + 4)), integers(2 * rows) {
    float* at = floats.data();
    const auto take = [&](int64_t n) { return std::exchange(at, at + n); };
    view = {rows,
            take(rows * kObservation),
            take(rows * kAction),
            take(rows),
            take(rows),
            take(rows * kObservation),
            integers.data(),
            take(rows),
            integers.data() + rows,
            take(rows)};
  }
  std::vector<float> floats;
  std::vector<int64_t> integers;
  BatchView view;
};

ReplayBuffer::Settings settings(Mode mode, int64_t capacity) {
  return {{kTasks, capacity, kObservation, kAction}, mode, 0.6, 0.4, 7, best_instruction_set(), ""};
}

// Every number of the transition is a function of its time, so half of one and half of another is seen.
void add(ReplayBuffer& buffer, int64_t time) {
  float observation[kTasks * kObservation], next[kTasks * kObservation], action[kTasks * kAction],
      reward[kTasks];
  bool terminated[kTasks], truncated[kTasks];
  const auto now = static_cast<float>(time);
  std::fill_n(observation, kTasks * kObservation, now);
  std::fill_n(next, kTasks * kObservation, now + 1);
  std::fill_n(action, kTasks * kAction, now);
  std::fill_n(reward, kTasks, now);
  std::fill_n(terminated, kTasks, false);
  std::fill_n(truncated, kTasks, time % 7 == 6);
  buffer.add(observation, action, reward, terminated, truncated, next);
}

bool is_whole(const BatchView& batch) {
  for (int64_t row = 0; row < batch.rows; ++row) {
    const float time = batch.reward[row];
    for (int64_t i = 0; i < kObservation; ++i)
      if (batch.observation[row * kObservation + i] != time ||
          batch.next_observation[row * kObservation + i] != time + 1)
        return false;
    for (int64_t i = 0; i < kAction; ++i)
      if (batch.action[row * kAction + i] != time) return false;
    if (static_cast<float>(sequence_of(batch.id[row])) != time) return false;
  }
  return true;
}

TEST(ReplayBuffer, ThreadsThatAddSampleAndUpdateSeeWholeTransitions) {
  ReplayBuffer buffer(settings(Mode::prioritized, 64));
  add(buffer, 0);
  std::atomic<int> torn{0};
  const auto sample = [&](int rounds) {
    const std::vector<int64_t> count(kTasks, 16);
    Batch batch(kTasks * 16);
    std::vector<double> priority(kTasks * 16, 0.5);
    for (int round = 0; round < rounds; ++round) {
      buffer.sample(count.data(), batch.view);
      torn += !is_whole(batch.view);
      buffer.update_priorities(batch.view.id, priority.data(), batch.view.rows);
    }
  };
  std::thread writer([&] {
    for (int64_t time = 1; time < 2000; ++time) add(buffer, time);
  });
  std::thread one(sample, 300), other(sample, 300);
  writer.join();
  one.join();
  other.join();
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(buffer.check(), "");
}

TEST(ReplayBuffer, PrefetchedBatchesAreWholeBesideThreadsThatAddAndUpdate) {
  ReplayBuffer buffer(settings(Mode::prioritized, 64));
  add(buffer, 0);
  std::thread writer([&] {
    for (int64_t time = 1; time < 2000; ++time) add(buffer, time);
  });
  std::thread updater([&] {
    const int64_t id = 0;
    const double priority = 0.5;
    for (int i = 0; i < 2000; ++i) buffer.update_priorities(&id, &priority, 1);
  });
  const std::vector<int64_t> count(kTasks, 16);
  Batch batch[2] = {Batch(kTasks * 16), Batch(kTasks * 16)};
  int torn = 0;
  for (int round = 0; round < 300; ++round) {
    const BatchView& given = batch[round % 2].view;
    buffer.sample(count.data(), given);
    buffer.prefetch(count.data(), batch[1 - round % 2].view, round % 3 != 0);
    torn += !is_whole(given);
    if (round % 7 == 0) buffer.save({}, [](const void*, size_t) {});
  }
  writer.join();
  updater.join();
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(buffer.check(), "");
  EXPECT_EQ(buffer.prefetched_counts(), count);
}

TEST(ReplayBuffer, SharedTimesNeedEqualSizesOnlyWhereTheyAreDrawn) {
  ReplayBuffer buffer(settings(Mode::uniform_shared, 64));
  for (int64_t time = 0; time < 20; ++time) add(buffer, time);
  Batch batch(kTasks * 4);
  const std::vector<int64_t> count(kTasks, 4);
  buffer.sample(count.data(), batch.view);
  for (int64_t row = 0; row < batch.view.rows; ++row)
    EXPECT_EQ(sequence_of(batch.view.id[row]), sequence_of(batch.view.id[row % 4]));
}

TEST(ReplayBuffer, BadSettingsAreNamed) {
  auto bad = settings(Mode::uniform, 1);
  EXPECT_THROW(ReplayBuffer{bad}, std::invalid_argument);
  bad = settings(Mode::prioritized, 8);
  bad.alpha = std::nan("");
  EXPECT_THROW(ReplayBuffer{bad}, std::invalid_argument);
}

}  // namespace
