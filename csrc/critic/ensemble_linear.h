#pragma once

#include <cstdint>

// A hidden layer of an ensemble of MLPs: y[e] = max(0, x[e] kernel[e] + bias[e] + task_row[e][task]).
//
//   x [critics, rows, inputs], or [rows, inputs] where `shared`;  kernel [critics, inputs, outputs];
//   bias [critics, outputs];  y [critics, rows, outputs];  all dense, row-major.
//   task_row [critics, tasks, outputs], task [rows] with 0 <= task < tasks: the rows of a first kernel that a
//   one-hot of the task would pick. Both null where tasks is 0.
//
// Owns nothing. `workspace` holds ensemble_linear_workspace floats and is free again afterwards.
struct EnsembleLinear {
  int64_t critics, rows, inputs, outputs, tasks;
  bool shared;
};

int64_t ensemble_linear_workspace(const EnsembleLinear& layer);

void ensemble_linear_forward(const EnsembleLinear& layer, const float* x, const float* kernel,
                             const float* bias, const float* task_row, const int64_t* task, float* y,
                             float* workspace);

// The backward pass in three parts, of which a caller may need only some. dz, the gradient before the ReLU,
// is [critics, rows, outputs]: dy where y > 0, else 0; it may be dy itself.
void ensemble_linear_mask(const EnsembleLinear& layer, const float* y, const float* dy, float* dz);

// dkernel, dbias and dtask_row are overwritten. Biases are summed by blocks of at most 256 rows, a weight in
// one chain over all rows.
void ensemble_linear_weight_gradients(const EnsembleLinear& layer, const float* x, const int64_t* task,
                                      const float* dz, float* dkernel, float* dbias, float* dtask_row,
                                      float* workspace);

// dx is [critics, rows, inputs], one gradient per critic even where x is shared.
void ensemble_linear_input_gradient(const EnsembleLinear& layer, const float* kernel, const float* dz,
                                    float* dx, float* workspace);

// The parts of one critic's layer, on rows that are `_row` floats apart.

// y = max(0, y + bias + task_row[task]); task_row and task may be null.
void add_bias_relu(int64_t rows, int64_t cols, const float* bias, const float* task_row, const int64_t* task,
                   float* y, int64_t y_row);

// dz = 0 where y <= 0. `sum` [cols], which may be null, is overwritten by the columns' sums.
void mask_rows(int64_t rows, int64_t cols, const float* y, int64_t y_row, float* dz, int64_t dz_row,
               float* sum);

// Of dkernel = x^T dz the block that starts at input i and output j, multiples of the block's sizes;
// overwrites it. Other blocks may be made at the same time. `workspace` holds weight_block_workspace floats.
struct WeightBlock {
  int64_t inputs, outputs;
};
WeightBlock weight_block(int64_t inputs, int64_t outputs);
int64_t weight_block_workspace();
void weight_gradient_block(int64_t rows, int64_t inputs, int64_t outputs, int64_t i, int64_t j,
                           const float* x, int64_t x_row, const float* dz, int64_t dz_row, float* dkernel,
                           float* workspace);

// dbias [cols] and, where task is not null, dtask_row [tasks, cols]; overwritten.
void bias_gradient(int64_t rows, int64_t cols, int64_t tasks, const float* dz, int64_t dz_row,
                   const int64_t* task, float* dbias, float* dtask_row);
