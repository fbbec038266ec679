// The replay on the GPU does what the CPU's does, bit for bit.
// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "replay/power.h"
#include "replay/replay_buffer.cu"
#include "replay/replay_buffer.h"
#include "rng.h"

namespace {

constexpr int64_t kObservation = 5, kAction = 2;
constexpr float kDiscount = 0.9f;

struct Case {
  Mode mode;
  int64_t tasks, capacity, steps;
  Normalization normalization = Normalization::batch;
  int64_t n_step = 1;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << "mode" << static_cast<int>(c.mode) << "_tasks" << c.tasks << "_capacity" << c.capacity;
  }
};

template <class T>
std::vector<char> bytes(const std::vector<T>& x) {
  const auto* first = reinterpret_cast<const char*>(x.data());
  return std::vector<char>(first, first + x.size() * sizeof(T));
}

struct Batch {
  std::vector<float> observation, action, reward, terminated, next_observation, weight, discount;
  std::vector<int64_t> task, id;
  explicit Batch(int64_t n)
      : observation(n * kObservation, -7),
        action(n * kAction, -7),
        reward(n, -7),
        terminated(n, -7),
        next_observation(n * kObservation, -7),
        weight(n, -7),
        discount(n, -7),
        task(n, -7),
        id(n, -7) {}

  bool operator==(const Batch& o) const {
    return bytes(observation) == bytes(o.observation) && bytes(action) == bytes(o.action) &&
           bytes(reward) == bytes(o.reward) && bytes(terminated) == bytes(o.terminated) &&
           bytes(next_observation) == bytes(o.next_observation) && bytes(weight) == bytes(o.weight) &&
           bytes(discount) == bytes(o.discount) && task == o.task && id == o.id;
  }
};

// Both replays, given the same.
class Twins {
 public:
  Twins(const Case& c, uint64_t seed)
      : case_(c),
        cpu_({{c.tasks, c.capacity, kObservation, kAction},
              c.mode,
              0.6,
              0.4,
              seed,
              best_instruction_set(),
              "",
              c.normalization,
              {c.n_step, kDiscount}}),
        shape_{c.tasks,
               c.capacity,
               kObservation,
               kAction,
               is_prioritized(c.mode),
               c.mode == Mode::uniform_shared,
               c.mode == Mode::prioritized_independent,
               static_cast<NormalizationCuda>(c.normalization),
               0.6,
               0.4,
               c.n_step,
               kDiscount,
               seed},
        memory_(replay_cuda_bytes(shape_)),
        cuda_(replay_cuda(shape_, memory_.data())),
        random_(seed) {
    next_ = numbers(c.tasks * kObservation);
  }

  // Another alpha, and the sums from the leaves.
  void set_alpha(double alpha) {
    cpu_.set_alpha(alpha);
    replay_rebuild_cuda(cuda_, alpha / cuda_.shape.alpha, nullptr);
    cuda_.shape.alpha = alpha;
  }

  // Episodes go on, mostly: the next observation comes back as the observation.
  void add() {
    std::vector<float> observation = next_, action = numbers(case_.tasks * kAction),
                       reward = numbers(case_.tasks);
    if (random_() % 5 == 0) observation[random_() % observation.size()] += 1;
    if (random_() % 7 == 0) observation[random_() % observation.size()] = NAN;
    next_ = numbers(case_.tasks * kObservation);
    std::vector<uint8_t> terminated(case_.tasks), truncated(case_.tasks);
    for (auto& flag : terminated) flag = random_() % 6 == 0;
    for (auto& flag : truncated) flag = random_() % 6 == 0;
    cpu_.add(observation.data(), action.data(), reward.data(), reinterpret_cast<bool*>(terminated.data()),
             reinterpret_cast<bool*>(truncated.data()), next_.data());
    replay_add_cuda(
        cuda_,
        {observation.data(), action.data(), reward.data(), terminated.data(), truncated.data(), next_.data()},
        nullptr);
  }

  std::vector<int64_t> compare_samples(const std::vector<int64_t>& count) {
    std::vector<int64_t> first{0};
    for (int64_t n : count) first.push_back(first.back() + n);
    const int64_t n = first.back();
    Batch expected(n), got(n);
    cpu_.sample(count.data(),
                {n, expected.observation.data(), expected.action.data(), expected.reward.data(),
                 expected.terminated.data(), expected.next_observation.data(), expected.task.data(),
                 expected.weight.data(), expected.id.data(), expected.discount.data()});
    std::vector<double> workspace(replay_sample_workspace(cuda_, n) / sizeof(double), NAN);
    replay_sample_cuda(
        cuda_,
        {n, first.data(), got.observation.data(), got.action.data(), got.reward.data(), got.terminated.data(),
         got.next_observation.data(), got.task.data(), got.weight.data(), got.id.data(), got.discount.data()},
        workspace.data(), nullptr);
    EXPECT_EQ(got.id, expected.id);
    EXPECT_EQ(got.weight, expected.weight);
    EXPECT_TRUE(got == expected);
    return expected.id;
  }

  void compare_updates(const std::vector<int64_t>& id, const std::vector<float>& priority) {
    const std::vector<double> wide(priority.begin(), priority.end());
    int64_t stale = -1;
    bool refused = false;
    try {
      stale = cpu_.update_priorities(id.data(), wide.data(), static_cast<int64_t>(id.size()));
    } catch (const std::invalid_argument& error) {
      const int64_t row = static_cast<int64_t>(id.size()) - report_after(id, priority)[1];
      EXPECT_EQ(std::string(error.what()).rfind("row " + std::to_string(row) + ": ", 0), 0u) << error.what();
      refused = true;
    }
    if (!refused) {
      EXPECT_EQ(report_after(id, priority), (std::vector<int64_t>{stale, 0}));
    }
  }

  std::vector<float> priorities(size_t n) {
    std::vector<float> priority(n);
    for (float& p : priority) p = random_() % 20 == 0 ? 0.0f : std::fabs(numbers(1)[0]);
    return priority;
  }
  uint64_t random() { return random_(); }

 private:
  std::vector<float> numbers(int64_t n) {
    std::normal_distribution<float> draw(0, 100);
    std::vector<float> x(n);
    for (float& value : x) value = draw(random_);
    return x;
  }
  std::vector<int64_t> report_after(const std::vector<int64_t>& id, const std::vector<float>& priority) {
    const auto n = static_cast<int64_t>(id.size());
    std::vector<float> workspace(n, NAN);
    replay_update_cuda(cuda_, id.data(), priority.data(), n, workspace.data(), nullptr);
    return {cuda_.report[0], cuda_.report[1]};
  }

  Case case_;
  ReplayBuffer cpu_;
  ReplayShapeCuda shape_;
  std::vector<char> memory_;
  ReplayCuda cuda_;
  std::mt19937_64 random_;
  std::vector<float> next_;
};

class CudaReplay : public testing::TestWithParam<Case> {};

// Random adds, samples and updates, each compared; `pause` adds between samples at least.
void compare(const Case& c, uint64_t seed, uint64_t pause) {
  Twins twins(c, seed);
  std::vector<int64_t> seen;
  for (int64_t step = 0; step < c.steps; ++step) {
    twins.add();
    if (twins.random() % pause != 0) continue;
    std::vector<int64_t> count(c.tasks, 1 + static_cast<int64_t>(twins.random() % 9));
    if (c.tasks > 1 && twins.random() % 4 == 0) count[twins.random() % c.tasks] = 0;
    auto id = twins.compare_samples(count);
    if (testing::Test::HasFailure()) FAIL() << "after step " << step;
    if (!is_prioritized(c.mode)) continue;
    seen.insert(seen.end(), id.begin(), id.end());
    for (int old = 0; old < 5; ++old)
      id.push_back(seen[twins.random() % seen.size()]);  // stale ones, equal ones
    std::shuffle(id.begin(), id.end(), cuda_on_host::shuffler);
    auto priority = twins.priorities(id.size());
    if (twins.random() % 6 == 0) priority[twins.random() % id.size()] = twins.random() % 2 ? NAN : -1.0f;
    if (twins.random() % 9 == 0) id[twins.random() % id.size()] += 1000000;
    twins.compare_updates(id, priority);
    if (twins.random() % 4 == 0) twins.set_alpha(0.1 * static_cast<double>(1 + twins.random() % 9));
    if (testing::Test::HasFailure()) FAIL() << "after step " << step;
  }
}

TEST_P(CudaReplay, IsTheCpusTwin) {
  uint64_t seed = 3;
  cuda_on_host::in_every_order([&] { compare(GetParam(), ++seed, 3); });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaReplay,
                         testing::Values(Case{Mode::prioritized, 1, 2, 20}, Case{Mode::prioritized, 3, 7, 30},
                                         Case{Mode::uniform, 2, 7, 20, Normalization::batch, 3},
                                         Case{Mode::uniform_shared, 2, 9, 20},
                                         Case{Mode::prioritized, 2, 7, 20, Normalization::task, 2},
                                         Case{Mode::prioritized_independent, 2, 7, 20, Normalization::none},
                                         Case{Mode::prioritized_independent, 2, 7, 20,
                                              Normalization::buffer}));

TEST(CudaReplay, IsTheCpusTwinOverSeveralTreeBlocks) { compare({Mode::prioritized, 1, 300, 400}, 1, 20); }

__global__ void power_kernel(const double* x, double exponent, double* out) {
  out[threadIdx.x] = power_of(x[threadIdx.x], exponent);
}

TEST(CudaReplay, PowerAndRandomNumbersHaveTheCpusBits) {
  std::vector<double> x{0, 1, 1e-300, 1e300, 0.5, 3, INFINITY, 5e-324};
  std::mt19937_64 random(1);
  while (x.size() < 512) x.push_back(std::exp(static_cast<double>(random() % 1000) / 20 - 25));
  for (double exponent : {0.6, -0.4, 0.0, 300.0}) {
    std::vector<double> got(512), expected(512);
    launch("power", power_kernel, 1, 512, 0, nullptr, x.data(), exponent, got.data());
    power(best_instruction_set(), x.data(), 512, exponent, expected.data());
    EXPECT_EQ(bytes(got), bytes(expected));
  }
  for (int64_t lane = 0; lane < 100; ++lane) {
    const auto block = rng::philox(~0ull, 1ull << 40, 17, static_cast<uint32_t>(lane / 2));
    const uint64_t bits = rng_cuda::bits64(~0ull, 1ull << 40, 17, lane);
    EXPECT_EQ(bits, rng::bits64(block, lane));
    EXPECT_EQ(rng_cuda::unit(bits), rng::unit(bits));
    EXPECT_EQ(rng_cuda::below(bits, 99991), rng::below(bits, 99991));
  }
}

}  // namespace
