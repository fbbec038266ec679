#pragma once

#include <cstdint>
#include <random>
#include <vector>

// Standard normal numbers from `random`.
inline std::vector<float> normal_numbers(std::mt19937_64& random, int64_t n) {
  std::normal_distribution<float> draw;
  std::vector<float> x(n);
  for (float& value : x) value = draw(random);
  return x;
}

// Whole numbers below `below`, in no order.
inline std::vector<int64_t> whole_numbers(std::mt19937_64& random, int64_t n, int64_t below) {
  std::vector<int64_t> x(n);
  for (int64_t& value : x) value = static_cast<int64_t>(random() % static_cast<uint64_t>(below));
  return x;
}
