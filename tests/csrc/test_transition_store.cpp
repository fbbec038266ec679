#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>

#include "replay/transition_store.h"

namespace {

struct Transition {
  float observation[3], action[2], reward;
  bool terminated, truncated;
  float next[3];
};

Transition transition_of(const TransitionStore& store, int64_t sequence) {
  Transition t{};
  const int64_t at = store.row_of(sequence);
  const float* row = store.row(0, at);
  float copy[64];  // room for the wide copies that g++ takes for possible
  store.copy_observation(3, store.shape().frame, 0, at, row, copy);
  std::copy_n(copy, 3, t.observation);
  std::memcpy(t.action, store.action(row), sizeof t.action);
  t.reward = store.reward(row);
  t.terminated = (store.flags(row) & TransitionStore::kTerminated) != 0;
  t.truncated = (store.flags(row) & TransitionStore::kTruncated) != 0;
  store.copy_next_observation(3, store.shape().frame, 0, at, row, copy);
  std::copy_n(copy, 3, t.next);
  return t;
}

void add(TransitionStore& store, const Transition& t) {
  store.add(0, t.observation, t.action, t.reward, t.terminated, t.truncated, t.next);
}

TEST(TransitionStore, GivesBackWhatWasPutInAtEveryCapacityAndEnding) {
  std::mt19937 random(1);
  for (int64_t capacity : {2, 3, 7, 50})
    for (int share : {0, 1, 3, 10, -3}) {
      const int64_t frame = share < 0 ? 1 : 0;  // stacked: [frame, previous frame, goal], one number each
      share = std::abs(share);
      TransitionStore store({1, capacity, 3, 2, frame}, "");
      std::deque<Transition> twin;
      float next[3] = {0, 0, 0};
      for (int step = 0; step < 300; ++step) {
        Transition t{};
        std::memcpy(t.observation, next, sizeof next);
        if (share && static_cast<int>(random() % 20) < share)
          t.observation[1] = std::nanf("");  // not what was announced
        t.reward = static_cast<float>(random());
        t.terminated = static_cast<int>(random() % 20) < share;
        t.truncated = static_cast<int>(random() % 20) < share;
        for (float& value : t.next) value = static_cast<float>(random());
        if (frame) std::memcpy(t.next + 1, t.observation, sizeof(float));
        if (frame) std::memcpy(t.next + 2, t.observation + 2, sizeof(float));
        ASSERT_TRUE(store.fits(t.observation, t.next));
        std::memcpy(next, t.next, sizeof next);
        add(store, t);
        twin.push_back(t);
        if (static_cast<int64_t>(twin.size()) > capacity) twin.pop_front();
        ASSERT_EQ(store.check(), "");
        ASSERT_EQ(store.size(0), static_cast<int64_t>(twin.size()));
        for (int64_t i = 0; i < store.size(0); ++i) {
          const Transition got = transition_of(store, store.begin(0) + i);
          ASSERT_EQ(std::memcmp(&got, &twin[i], sizeof got), 0) << capacity << " " << step << " " << i;
        }
      }
    }
}

TEST(TransitionStore, RowsAreAlignedAndSmall) {
  const TransitionStore store({1, 10, 39, 4}, "");
  EXPECT_EQ(store.bytes_per_row(), 192);
  for (int64_t row = 0; row < store.rows(); ++row)
    EXPECT_EQ(reinterpret_cast<uintptr_t>(store.row(0, row)) % 64, 0u);
}

TEST(TransitionStore, RowsMayLieInAFile) {
  TransitionStore store({1, 10, 3, 2}, testing::TempDir());
  Transition t{};
  t.reward = 5;
  add(store, t);
  EXPECT_EQ(transition_of(store, 0).reward, 5);
  EXPECT_THROW(TransitionStore({1, 10, 3, 2}, "/no/such/folder"), std::runtime_error);
}

}  // namespace
