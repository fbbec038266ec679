#pragma once

#include <cstdint>

// Soft TD target of SAC (Haarnoja et al. 2018, eq. 5) with the minimum over critics (Fujimoto et al. 2018):
//   target[b] = reward[b] + discount[b] * (1 - terminated[b]) * (min_e next_q[e][b] - temperature[b] *
//   log_prob[b])
// next_q is [critics, rows], the others are [rows]; all dense. Truncation is not termination;
// discount[b] is of the value that follows: of n-step returns, discount ^ n. Owns nothing.
void td_target(int64_t critics, int64_t rows, const float* reward, const float* terminated,
               const float* next_q, const float* log_prob, const float* temperature, const float* discount,
               float* target);
