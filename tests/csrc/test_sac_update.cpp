// What the update computes is checked against numpy in tests/mtrl/test_agent.py; here, that threads do not
// show and that it stays within its room (under the sanitizers).
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

#include "critic/sac_update.h"

namespace {

struct Adam {
  std::vector<float> value, gradient, mean, square;

  explicit Adam(std::vector<float> start)
      : value(std::move(start)), gradient(value.size()), mean(value.size()), square(value.size()) {}
  AdamState state(int64_t steps) {
    return {value.data(), gradient.data(), mean.data(), square.data(), static_cast<int64_t>(value.size()),
            steps};
  }
};

// A dense layout, and in `size` the floats it takes.
MultiHeadShape shape_of(int64_t critics, int64_t inputs, int64_t outputs, int64_t tasks, int64_t width,
                        int64_t depth, int64_t* size) {
  MultiHeadShape shape{critics, inputs, outputs, tasks, width, depth, {}};
  *size = 0;
  auto take = [&](int64_t n) {
    shape.start.push_back(*size);
    *size += critics * n;
  };
  take(tasks * width);
  take(tasks * width * outputs);
  take(tasks * outputs);
  for (int64_t layer = 0; layer < depth; ++layer) take((layer ? width : inputs) * width);
  for (int64_t layer = 0; layer < depth; ++layer) take(width);
  return shape;
}

std::vector<float> random(std::mt19937& generator, int64_t n, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(n);
  for (float& value : x) value = normal(generator);
  return x;
}

// Everything that three updates with batches of different sizes leave behind.
std::vector<float> three_updates(int64_t width, int64_t depth, int64_t critics, int64_t tasks, int threads) {
  std::mt19937 generator(1);
  int64_t actor_size, critic_size;
  MultiHeadShape actor_shape = shape_of(1, 39, 8, tasks, width, depth, &actor_size);
  MultiHeadShape critic_shape = shape_of(critics, 43, 1, tasks, width, depth, &critic_size);
  Adam actor(random(generator, actor_size, 0.1f)), critic(random(generator, critic_size, 0.1f));
  Adam temperature(std::vector<float>(tasks, 0.0f));
  std::vector<float> target = critic.value, left;
  SacUpdate update({0.005, 3e-4, 3e-4, 3e-4, 0.9, 0.999, 1e-5, 0.01, 1.0, 1.0, -4.0, -20.0, 2.0}, actor_shape,
                   critic_shape, threads);
  int64_t steps = 0;
  for (int64_t rows : {300, 1, 517}) {
    const auto observation = random(generator, rows * 39), next = random(generator, rows * 39);
    const auto action = random(generator, rows * 4), reward = random(generator, rows),
               noise = random(generator, rows * 4);
    const auto next_noise = random(generator, rows * 4);
    const std::vector<float> terminated(rows, 0.0f), weight(rows, 1.0f), discount(rows, 0.99f);
    std::vector<int64_t> task(rows);
    for (int64_t b = 0; b < rows; ++b) task[b] = b * tasks / rows;
    std::vector<float> priority(rows);
    ++steps;
    const SacMetrics metrics =
        update.run(actor.state(steps), critic.state(steps), target.data(), temperature.state(steps),
                   {rows, observation.data(), action.data(), reward.data(), terminated.data(), next.data(),
                    weight.data(), discount.data(), task.data(), next_noise.data(), noise.data()},
                   priority.data());
    left.insert(left.end(), priority.begin(), priority.end());
    left.push_back(static_cast<float>(metrics.critic_loss + metrics.actor_loss + metrics.temperature_loss));
  }
  for (const auto* values : {&actor.value, &critic.value, &target, &temperature.value}) {
    left.insert(left.end(), values->begin(), values->end());
  }
  return left;
}

}  // namespace

TEST(SacUpdate, ThreadsDoNotShow) {
  for (const auto& [width, depth, critics, tasks] :
       {std::array<int64_t, 4>{1, 1, 1, 1}, {17, 2, 3, 2}, {300, 3, 2, 7}}) {
    const std::vector<float> alone = three_updates(width, depth, critics, tasks, 1);
    EXPECT_EQ(three_updates(width, depth, critics, tasks, 4), alone) << "width " << width;
  }
}
