#include "critic/head_gather.h"

#include <algorithm>

#include "critic/instruction_set.h"
#include "critic/matmul.h"

namespace {

constexpr int64_t kRun = 256;   // rows of one task taken together
constexpr int64_t kStrip = 64;  // columns whose sums stay in registers
constexpr int64_t kLanes = 16;  // partial sums of a dot product; the same for every instruction set

// y[b] = x[b] . kernel + bias: the head of a critic.
MTRL_BODY void dot_rows_body(int64_t rows, int64_t width, int64_t x_row, const float* x, const float* kernel,
                             float bias, float* y) {
  for (int64_t b = 0; b < rows; ++b, x += x_row) {
    float lane[kLanes] = {};
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) {
      for (int64_t k = 0; k < kLanes; ++k) lane[k] += x[j + k] * kernel[j + k];
    }
    float sum = 0.0f;
    for (; j < width; ++j) sum += x[j] * kernel[j];
    for (int64_t half = kLanes / 2; half; half /= 2) {
      for (int64_t k = 0; k < half; ++k) lane[k] += lane[k + half];
    }
    y[b] = sum + lane[0] + bias;
  }
}
MTRL_BEST(dot_rows,
          (int64_t rows, int64_t width, int64_t x_row, const float* x, const float* kernel, float bias,
           float* y),
          (rows, width, x_row, x, kernel, bias, y))

// dx[b] = dy[b] kernel.
MTRL_BODY void spread_rows_body(int64_t rows, int64_t width, int64_t x_row, const float* dy,
                                const float* kernel, float* dx) {
  for (int64_t b = 0; b < rows; ++b, dx += x_row) {
    for (int64_t j = 0; j < width; ++j) dx[j] = dy[b] * kernel[j];
  }
}
MTRL_BEST(spread_rows,
          (int64_t rows, int64_t width, int64_t x_row, const float* dy, const float* kernel, float* dx),
          (rows, width, x_row, dy, kernel, dx))

// dkernel += sum over b of dy[b] x[b].
MTRL_BODY void add_weighted_rows_body(int64_t rows, int64_t width, int64_t x_row, const float* x,
                                      const float* dy, float* dkernel) {
  for (int64_t j = 0; j < width; j += kStrip) {
    const int64_t wide = std::min(kStrip, width - j);
    float strip[kStrip] = {};
    for (int64_t b = 0; b < rows; ++b) {
      const float* row = x + b * x_row + j;
      if (wide == kStrip) {
        for (int64_t k = 0; k < kStrip; ++k) strip[k] += dy[b] * row[k];
      } else {
        for (int64_t k = 0; k < wide; ++k) strip[k] += dy[b] * row[k];
      }
    }
    for (int64_t k = 0; k < wide; ++k) dkernel[j + k] += strip[k];
  }
}
MTRL_BEST(add_weighted_rows,
          (int64_t rows, int64_t width, int64_t x_row, const float* x, const float* dy, float* dkernel),
          (rows, width, x_row, x, dy, dkernel))

// Calls body(critic, task, first row, number of rows) for each run of rows of one task.
template <class Body>
void for_each_run(const HeadGather& head, const int64_t* task, Body body) {
  for (int64_t e = 0; e < head.critics; ++e) {
    for (int64_t b = 0; b < head.rows;) {
      int64_t end = b + 1;
      while (end < head.rows && end < b + kRun && task[end] == task[b]) ++end;
      body(e, task[b], b, end - b);
      b = end;
    }
  }
}

}  // namespace

int64_t head_gather_workspace(const HeadGather& head) {
  return std::max({packed_size(head.width, head.outputs), packed_size(head.outputs, head.width),
                   transposed_workspace(head.outputs)});
}

void head_gather_forward(const HeadGather& head, const float* x, const float* kernel, const float* bias,
                         const int64_t* task, float* y, float* workspace) {
  const int64_t width = head.width, outputs = head.outputs;
  for_each_run(head, task, [&](int64_t e, int64_t t, int64_t b, int64_t rows) {
    const float* own = kernel + (e * head.tasks + t) * width * outputs;
    const float* own_bias = bias + (e * head.tasks + t) * outputs;
    const float* in = x + (e * head.rows + b) * head.x_row;
    float* out = y + (e * head.rows + b) * outputs;
    if (outputs == 1) {
      dot_rows(rows, width, head.x_row, in, own, *own_bias, out);
      return;
    }
    for (int64_t r = 0; r < rows; ++r) std::copy(own_bias, own_bias + outputs, out + r * outputs);
    matmul(rows, in, head.x_row, pack(width, outputs, {own, outputs, 1}, workspace), out, outputs, true);
  });
}

void head_gather_backward(const HeadGather& head, const float* x, const float* kernel, const int64_t* task,
                          const float* dy, float* dx, float* dkernel, float* dbias, float* workspace) {
  const int64_t width = head.width, outputs = head.outputs;
  if (dkernel) {
    std::fill(dkernel, dkernel + head.critics * head.tasks * width * outputs, 0.0f);
    std::fill(dbias, dbias + head.critics * head.tasks * outputs, 0.0f);
  }
  for_each_run(head, task, [&](int64_t e, int64_t t, int64_t b, int64_t rows) {
    const int64_t own = e * head.tasks + t;
    const float* in = x + (e * head.rows + b) * head.x_row;
    const float* out = dy + (e * head.rows + b) * outputs;
    const float* own_kernel = dx ? kernel + own * width * outputs : nullptr;
    float* din = dx ? dx + (e * head.rows + b) * head.x_row : nullptr;
    if (din && outputs == 1) {
      spread_rows(rows, width, head.x_row, out, own_kernel, din);
    } else if (din) {
      matmul(rows, out, outputs, pack(outputs, width, {own_kernel, 1, outputs}, workspace), din, head.x_row,
             false);
    }
    if (!dkernel) return;
    for (int64_t o = 0; o < outputs; ++o) {
      float sum = 0.0f;
      for (int64_t r = 0; r < rows; ++r) sum += out[r * outputs + o];
      dbias[own * outputs + o] += sum;
    }
    if (outputs == 1) {
      add_weighted_rows(rows, width, head.x_row, in, out, dkernel + own * width);
      return;
    }
    matmul_transposed(width, rows, outputs, in, head.x_row, out, outputs, dkernel + own * width * outputs,
                      outputs, true, workspace);
  });
}
