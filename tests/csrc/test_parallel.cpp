#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "parallel.h"

TEST(Team, TakesEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    Team team(threads);
    EXPECT_EQ(team.size(), threads);
    for (int64_t count : {0, 1, 2, 100, 1000}) {
      std::vector<int> taken(count);
      team.run(count, [&](int64_t i, int thread) {
        ASSERT_LT(thread, threads);
        ++taken[i];
      });
      EXPECT_EQ(taken, std::vector<int>(count, 1));
    }
  }
}

// More threads than any machine has cores here, loops shorter than a wake-up: most workers come late.
TEST(Team, LateWorkersFindNothingOfAnOlderLoop) {
  Team team(12);
  for (int64_t round = 0; round < 3000; ++round) {
    const int64_t count = 2 + round % 3;
    std::vector<int64_t> taken(count, 0);
    team.run(count, [&](int64_t i, int) { taken[i] += round + 1; });
    ASSERT_EQ(taken, std::vector<int64_t>(count, round + 1));
  }
}

TEST(Team, WakesAfterSleep) {
  Team team(3);
  for (int round = 0; round < 5; ++round) {
    std::vector<int64_t> square(50);
    team.run(50, [&](int64_t i, int) { square[i] = i * i; });
    for (int64_t i = 0; i < 50; ++i) EXPECT_EQ(square[i], i * i);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than a worker spins
  }
}

TEST(Team, AnExceptionOfABodyReachesTheCallerAfterAllIndices) {
  for (int threads : {2, 5}) {
    Team team(threads);
    std::vector<int> taken(100);
    const auto fail = [&](int64_t i, int) {
      ++taken[i];
      if (i % 10 == 3) throw std::runtime_error("three");
    };
    EXPECT_THROW(team.run(100, fail), std::runtime_error);
    EXPECT_EQ(taken, std::vector<int>(100, 1));
    team.run(100, [&](int64_t i, int) { ++taken[i]; });
    EXPECT_EQ(taken, std::vector<int>(100, 2));
  }
}

TEST(Team, AForkedChildWorksAloneAndEnds) {
  auto* team = new Team(3);
  team->run(100, [](int64_t, int) {});
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // kills it where it hangs
    int taken[50] = {};
    team->run(50, [&](int64_t i, int thread) { taken[i] += thread + 1; });
    delete team;
    for (int n : taken)
      if (n != 1) _exit(1);
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  delete team;
}
