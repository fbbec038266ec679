#include "critic/ensemble_linear.h"

#include <algorithm>

#include "critic/instruction_set.h"
#include "critic/matmul.h"

namespace {

constexpr int64_t kRows =
    224;  // rows finished together while they are in cache; a multiple of every tile height
constexpr int64_t kCols = 256;     // columns of a weight gradient made together
constexpr int64_t kSumRows = 256;  // rows summed in one go
constexpr int64_t kStrip = 64;     // columns whose sums stay in registers

MTRL_BODY add_bias_relu_body(int64_t rows, int64_t cols, const float* bias, const float* task_row,
                             const int64_t* task, float* y) {
  for (int64_t b = 0; b < rows; ++b, y += cols) {
    if (task_row) {
      const float* own = task_row + task[b] * cols;
      for (int64_t j = 0; j < cols; ++j) y[j] = std::max(y[j] + (bias[j] + own[j]), 0.0f);
    } else {
      for (int64_t j = 0; j < cols; ++j) y[j] = std::max(y[j] + bias[j], 0.0f);
    }
  }
}
MTRL_DISPATCH(add_bias_relu,
              (int64_t rows, int64_t cols, const float* bias, const float* task_row, const int64_t* task,
               float* y),
              (rows, cols, bias, task_row, task, y))

MTRL_BODY mask_body(int64_t n, const float* y, const float* dy, float* dz) {
  for (int64_t i = 0; i < n; ++i) dz[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}
MTRL_DISPATCH(mask, (int64_t n, const float* y, const float* dy, float* dz), (n, y, dy, dz))

// sum[j] += the sum of z's column j.
MTRL_BODY add_column_sums_body(int64_t rows, int64_t cols, const float* z, float* sum) {
  for (int64_t j = 0; j < cols; j += kStrip) {
    const int64_t wide = std::min(kStrip, cols - j);
    float strip[kStrip] = {};
    for (int64_t b = 0; b < rows; ++b) {
      const float* row = z + b * cols + j;
      if (wide == kStrip) {
        for (int64_t k = 0; k < kStrip; ++k) strip[k] += row[k];
      } else {
        for (int64_t k = 0; k < wide; ++k) strip[k] += row[k];
      }
    }
    for (int64_t k = 0; k < wide; ++k) sum[j + k] += strip[k];
  }
}
MTRL_DISPATCH(add_column_sums, (int64_t rows, int64_t cols, const float* z, float* sum), (rows, cols, z, sum))

// Rows from `begin` on that share its task, at most kSumRows.
int64_t run_end(const int64_t* task, int64_t begin, int64_t rows) {
  int64_t end = begin + 1;
  while (end < rows && end < begin + kSumRows && task[end] == task[begin]) ++end;
  return end;
}

void bias_gradients(const EnsembleLinear& layer, const float* dz, const int64_t* task, float* dbias,
                    float* dtask_row) {
  const int64_t cols = layer.outputs;
  std::fill(dbias, dbias + cols, 0.0f);
  if (!layer.tasks) {
    for (int64_t b = 0; b < layer.rows; b += kSumRows) {
      add_column_sums(std::min(kSumRows, layer.rows - b), cols, dz + b * cols, dbias);
    }
    return;
  }
  std::fill(dtask_row, dtask_row + layer.tasks * cols, 0.0f);
  for (int64_t b = 0; b < layer.rows;) {
    const int64_t end = run_end(task, b, layer.rows);
    add_column_sums(end - b, cols, dz + b * cols, dtask_row + task[b] * cols);
    b = end;
  }
  for (int64_t t = 0; t < layer.tasks; ++t) add_column_sums(1, cols, dtask_row + t * cols, dbias);
}

}  // namespace

int64_t ensemble_linear_workspace(const EnsembleLinear& layer) {
  const int64_t forward = packed_size(layer.inputs, layer.outputs),
                backward = packed_size(layer.outputs, layer.inputs);
  const int64_t weights = packed_size(std::min(kSumRows, layer.rows), std::min(kCols, layer.outputs));
  return std::max({forward, backward, weights});
}

void ensemble_linear_forward(const EnsembleLinear& layer, const float* x, const float* kernel,
                             const float* bias, const float* task_row, const int64_t* task, float* y,
                             float* workspace) {
  const int64_t inputs = layer.inputs, outputs = layer.outputs;
  for (int64_t e = 0; e < layer.members; ++e) {
    const Packed right = pack(inputs, outputs, {kernel + e * inputs * outputs, outputs, 1}, workspace);
    const float* left = layer.shared ? x : x + e * layer.rows * inputs;
    for (int64_t b = 0; b < layer.rows; b += kRows) {
      const int64_t rows = std::min(kRows, layer.rows - b);
      float* out = y + (e * layer.rows + b) * outputs;
      matmul(rows, {left + b * inputs, inputs, 1}, right, out, outputs, false);
      add_bias_relu(rows, outputs, bias + e * outputs,
                    task_row ? task_row + e * layer.tasks * outputs : nullptr, task ? task + b : nullptr,
                    out);
    }
  }
}

void ensemble_linear_mask(const EnsembleLinear& layer, const float* y, const float* dy, float* dz) {
  mask(layer.members * layer.rows * layer.outputs, y, dy, dz);
}

void ensemble_linear_weight_gradients(const EnsembleLinear& layer, const float* x, const int64_t* task,
                                      const float* dz, float* dkernel, float* dbias, float* dtask_row,
                                      float* workspace) {
  const int64_t inputs = layer.inputs, outputs = layer.outputs, rows = layer.rows;
  for (int64_t e = 0; e < layer.members; ++e) {
    const float* z = dz + e * rows * outputs;
    bias_gradients(layer, z, task, dbias + e * outputs,
                   layer.tasks ? dtask_row + e * layer.tasks * outputs : nullptr);
    const float* left = layer.shared ? x : x + e * rows * inputs;
    for (int64_t j = 0; j < outputs; j += kCols) {
      const int64_t cols = std::min(kCols, outputs - j);
      for (int64_t b = 0; b < rows; b += kSumRows) {
        const Packed right =
            pack(std::min(kSumRows, rows - b), cols, {z + b * outputs + j, outputs, 1}, workspace);
        matmul(inputs, {left + b * inputs, 1, inputs}, right, dkernel + e * inputs * outputs + j, outputs,
               b > 0);
      }
    }
  }
}

void ensemble_linear_input_gradient(const EnsembleLinear& layer, const float* kernel, const float* dz,
                                    float* dx, float* workspace) {
  const int64_t inputs = layer.inputs, outputs = layer.outputs, rows = layer.rows;
  for (int64_t e = 0; e < layer.members; ++e) {
    const float* z = dz + e * rows * outputs;
    const Packed right = pack(outputs, inputs, {kernel + e * inputs * outputs, 1, outputs}, workspace);
    for (int64_t b = 0; b < rows; b += kRows) {
      matmul(std::min(kRows, rows - b), {z + b * outputs, outputs, 1}, right, dx + (e * rows + b) * inputs,
             inputs, false);
    }
  }
}
