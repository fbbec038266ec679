#include "critic/ensemble_linear.h"

#include <algorithm>

#include "critic/even_block.h"
#include "critic/instruction_set.h"
#include "critic/matmul.h"

namespace {

constexpr int64_t kRows =
    252;  // rows finished together while they are in cache; a multiple of every tile height
constexpr int64_t kSumRows = 256;                           // rows summed in one go
constexpr int64_t kBlockInputs = 504, kBlockOutputs = 128;  // the largest block of a weight gradient
constexpr int64_t kStrip = 64;                              // columns whose sums stay in registers

MTRL_BODY void add_bias_relu_body(int64_t rows, int64_t cols, const float* bias, const float* task_row,
                                  const int64_t* task, float* y, int64_t y_row) {
  for (int64_t b = 0; b < rows; ++b, y += y_row) {
    if (task_row) {
      const float* own = task_row + task[b] * cols;
      for (int64_t j = 0; j < cols; ++j) y[j] = std::max(y[j] + (bias[j] + own[j]), 0.0f);
    } else {
      for (int64_t j = 0; j < cols; ++j) y[j] = std::max(y[j] + bias[j], 0.0f);
    }
  }
}

MTRL_BODY void mask_rows_body(int64_t rows, int64_t cols, const float* y, int64_t y_row, float* dz,
                              int64_t dz_row, float* sum) {
  if (sum) std::fill(sum, sum + cols, 0.0f);
  for (int64_t b = 0; b < rows; ++b, y += y_row, dz += dz_row) {
    for (int64_t j = 0; j < cols; ++j) dz[j] = y[j] > 0.0f ? dz[j] : 0.0f;
    for (int64_t j = 0; sum && j < cols; ++j) sum[j] += dz[j];
  }
}

// sum[j] += the sum of z's column j.
MTRL_BODY void add_column_sums_body(int64_t rows, int64_t cols, const float* z, int64_t z_row, float* sum) {
  for (int64_t j = 0; j < cols; j += kStrip) {
    const int64_t wide = std::min(kStrip, cols - j);
    float strip[kStrip] = {};
    for (int64_t b = 0; b < rows; ++b) {
      const float* row = z + b * z_row + j;
      if (wide == kStrip) {
        for (int64_t k = 0; k < kStrip; ++k) strip[k] += row[k];
      } else {
        for (int64_t k = 0; k < wide; ++k) strip[k] += row[k];
      }
    }
    for (int64_t k = 0; k < wide; ++k) sum[j + k] += strip[k];
  }
}
MTRL_BEST(add_column_sums, (int64_t rows, int64_t cols, const float* z, int64_t z_row, float* sum),
          (rows, cols, z, z_row, sum))

// Rows from `begin` on that share its task, at most kSumRows.
int64_t run_end(const int64_t* task, int64_t begin, int64_t rows) {
  int64_t end = begin + 1;
  while (end < rows && end < begin + kSumRows && task[end] == task[begin]) ++end;
  return end;
}

}  // namespace

MTRL_BEST(add_bias_relu,
          (int64_t rows, int64_t cols, const float* bias, const float* task_row, const int64_t* task,
           float* y, int64_t y_row),
          (rows, cols, bias, task_row, task, y, y_row))

MTRL_BEST(mask_rows,
          (int64_t rows, int64_t cols, const float* y, int64_t y_row, float* dz, int64_t dz_row, float* sum),
          (rows, cols, y, y_row, dz, dz_row, sum))

void bias_gradient(int64_t rows, int64_t cols, int64_t tasks, const float* dz, int64_t dz_row,
                   const int64_t* task, float* dbias, float* dtask_row) {
  std::fill(dbias, dbias + cols, 0.0f);
  if (!task) {
    for (int64_t b = 0; b < rows; b += kSumRows) {
      add_column_sums(std::min(kSumRows, rows - b), cols, dz + b * dz_row, dz_row, dbias);
    }
    return;
  }
  std::fill(dtask_row, dtask_row + tasks * cols, 0.0f);
  for (int64_t b = 0; b < rows;) {
    const int64_t end = run_end(task, b, rows);
    add_column_sums(end - b, cols, dz + b * dz_row, dz_row, dtask_row + task[b] * cols);
    b = end;
  }
  add_column_sums(tasks, cols, dtask_row, cols, dbias);
}

WeightBlock weight_block(int64_t inputs, int64_t outputs) {
  return {even_block(inputs, kBlockInputs, 14), even_block(outputs, kBlockOutputs, 32)};
}

int64_t weight_block_workspace() { return transposed_workspace(kBlockOutputs); }

void weight_gradient_block(int64_t rows, int64_t inputs, int64_t outputs, int64_t i, int64_t j,
                           const float* x, int64_t x_row, const float* dz, int64_t dz_row, float* dkernel,
                           float* workspace) {
  const WeightBlock block = weight_block(inputs, outputs);
  const int64_t height = std::min(block.inputs, inputs - i), cols = std::min(block.outputs, outputs - j);
  matmul_transposed(height, rows, cols, x + i, x_row, dz + j, dz_row, dkernel + i * outputs + j, outputs,
                    false, workspace);
}

int64_t ensemble_linear_workspace(const EnsembleLinear& layer) {
  const int64_t forward = packed_size(layer.inputs, layer.outputs),
                backward = packed_size(layer.outputs, layer.inputs);
  return std::max({forward, backward, weight_block_workspace()});
}

void ensemble_linear_forward(const EnsembleLinear& layer, const float* x, const float* kernel,
                             const float* bias, const float* task_row, const int64_t* task, float* y,
                             float* workspace) {
  const int64_t inputs = layer.inputs, outputs = layer.outputs;
  for (int64_t e = 0; e < layer.critics; ++e) {
    const Packed right = pack(inputs, outputs, {kernel + e * inputs * outputs, outputs, 1}, workspace);
    const float* left = layer.shared ? x : x + e * layer.rows * inputs;
    for (int64_t b = 0; b < layer.rows; b += kRows) {
      const int64_t rows = std::min(kRows, layer.rows - b);
      float* out = y + (e * layer.rows + b) * outputs;
      matmul(rows, left + b * inputs, inputs, right, out, outputs, false);
      add_bias_relu(rows, outputs, bias + e * outputs,
                    task_row ? task_row + e * layer.tasks * outputs : nullptr, task ? task + b : nullptr, out,
                    outputs);
    }
  }
}

void ensemble_linear_mask(const EnsembleLinear& layer, const float* y, const float* dy, float* dz) {
  const int64_t n = layer.critics * layer.rows * layer.outputs;
  if (dz != dy) std::copy(dy, dy + n, dz);
  mask_rows(1, n, y, n, dz, n, nullptr);
}

void ensemble_linear_weight_gradients(const EnsembleLinear& layer, const float* x, const int64_t* task,
                                      const float* dz, float* dkernel, float* dbias, float* dtask_row,
                                      float* workspace) {
  const int64_t inputs = layer.inputs, outputs = layer.outputs, rows = layer.rows;
  const WeightBlock block = weight_block(inputs, outputs);
  for (int64_t e = 0; e < layer.critics; ++e) {
    const float* z = dz + e * rows * outputs;
    const float* left = layer.shared ? x : x + e * rows * inputs;
    bias_gradient(rows, outputs, layer.tasks, z, outputs, task, dbias + e * outputs,
                  layer.tasks ? dtask_row + e * layer.tasks * outputs : nullptr);
    for (int64_t i = 0; i < inputs; i += block.inputs) {
      for (int64_t j = 0; j < outputs; j += block.outputs) {
        weight_gradient_block(rows, inputs, outputs, i, j, left, inputs, z, outputs,
                              dkernel + e * inputs * outputs, workspace);
      }
    }
  }
}

void ensemble_linear_input_gradient(const EnsembleLinear& layer, const float* kernel, const float* dz,
                                    float* dx, float* workspace) {
  const int64_t inputs = layer.inputs, outputs = layer.outputs, rows = layer.rows;
  for (int64_t e = 0; e < layer.critics; ++e) {
    const float* z = dz + e * rows * outputs;
    const Packed right = pack(outputs, inputs, {kernel + e * inputs * outputs, 1, outputs}, workspace);
    for (int64_t b = 0; b < rows; b += kRows) {
      matmul(std::min(kRows, rows - b), z + b * outputs, outputs, right, dx + (e * rows + b) * inputs, inputs,
             false);
    }
  }
}
