#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "critic/even_block.h"
#include "critic/head_gather.h"
#include "critic/matmul.h"
#include "critic/sac_update.h"

// How SacUpdate lays a network out in memory, for sac_update.cpp and sac_network.cpp alone.

constexpr int64_t kRows = 252;  // at most so many rows go through all layers together
constexpr int64_t kAlign = 16;  // floats of a cache line

// Activations of a power-of-two width would fall on the same few cache sets, row upon row.
inline int64_t padded(int64_t width) {
  const int64_t lines = (width + kAlign - 1) / kAlign;
  return (lines % 8 == 0 && lines > 8 ? lines + 1 : lines) * kAlign;
}

// Rows cut into blocks of almost one size.
struct Blocks {
  int64_t rows, size;

  explicit Blocks(int64_t n) : rows(n), size(even_block(n, kRows, 14)) {}
  int64_t count() const { return (rows + size - 1) / size; }
  int64_t length(int64_t begin) const { return std::min(size, rows - begin); }
};

// The parameters of a multi-head ensemble in a flat vector (or their gradients, in the vector of gradients).
template <class T>
struct Parameters {
  const MultiHeadShape& shape;
  T* flat;

  int64_t inputs(int64_t layer) const { return layer ? shape.width : shape.inputs; }
  T* task_row(int64_t e) const { return flat + shape.start[0] + e * shape.tasks * shape.width; }
  T* head_kernel(int64_t e) const {
    return flat + shape.start[1] + e * shape.tasks * shape.width * shape.outputs;
  }
  T* head_bias(int64_t e) const { return flat + shape.start[2] + e * shape.tasks * shape.outputs; }
  T* kernel(int64_t layer, int64_t e) const {
    return flat + shape.start[3 + layer] + e * inputs(layer) * shape.width;
  }
  T* bias(int64_t layer, int64_t e) const {
    return flat + shape.start[3 + shape.depth + layer] + e * shape.width;
  }
};

inline HeadGather head_of(const MultiHeadShape& shape, int64_t rows) {
  return {1, rows, shape.width, shape.outputs, shape.tasks, padded(shape.width)};
}

// A network's activations and gradients before the ReLUs, [layer][critic][rows][padded width], the sums of
// the latter over each block of rows, [layer][critic][block][padded width] (the first layer's biases go by
// task and need none), and where its kernels are packed.
struct SacUpdate::Network {
  MultiHeadShape shape;
  int64_t row;
  std::vector<float*> hidden, dz, sums;
  std::vector<Packed> forward, backward;  // [layer][critic]

  explicit Network(MultiHeadShape s)
      : shape(std::move(s)),
        row(padded(shape.width)),
        hidden(shape.depth),
        dz(shape.depth),
        sums(shape.depth),
        forward(shape.depth * shape.critics),
        backward(shape.depth * shape.critics) {}

  // The same layers, from critic e's row (or block) b on.
  std::vector<float*> from(const std::vector<float*>& layers, int64_t e, int64_t rows, int64_t b) const {
    std::vector<float*> at(layers);
    for (float*& layer : at) layer += (e * rows + b) * row;
    return at;
  }
};
