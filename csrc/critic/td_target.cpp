#include "critic/td_target.h"

#include <cmath>

void td_target(int64_t critics, int64_t rows, const float* reward, const float* terminated,
               const float* next_q, const float* log_prob, const float* temperature, const float* discount,
               float* target) {
  for (int64_t b = 0; b < rows; ++b) {
    float q = next_q[b];
    for (int64_t e = 1; e < critics; ++e) {
      const float other = next_q[e * rows + b];
      if (!(other >= q) && !std::isnan(q)) q = other;  // a NaN is not hidden by a smaller number
    }
    target[b] = reward[b] + discount[b] * (1.0f - terminated[b]) * (q - temperature[b] * log_prob[b]);
  }
}
