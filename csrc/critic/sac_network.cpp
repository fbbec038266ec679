// The passes through one network, and the memory that they need.
#include "critic/sac_network.h"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "critic/ensemble_linear.h"

namespace {

// Floats on a boundary of huge pages: walks over many rows then miss the address cache less.
float* allocate(int64_t floats) {
  constexpr int64_t kHuge = int64_t{1} << 21;
  const int64_t bytes = (floats * static_cast<int64_t>(sizeof(float)) + kHuge - 1) / kHuge * kHuge;
  void* room = std::aligned_alloc(kHuge, bytes);
  if (!room) throw std::bad_alloc();
#if defined(__linux__)
  madvise(room, bytes, MADV_HUGEPAGE);  // a wish: without huge pages all is the same, only slower
#endif
  return static_cast<float*>(room);
}

}  // namespace

void SacUpdate::reserve(int64_t rows) {
  if (rows == rows_ && kernel_ == matmul_kernel()) return;  // the room depends on both
  rows_ = 0;                                                // until there is room again
  const int64_t inputs = critic_->shape.inputs, critics = critic_->shape.critics, tall = Blocks(rows).size;
  const int64_t head = std::max(head_gather_workspace(head_of(actor_->shape, rows)),
                                head_gather_workspace(head_of(critic_->shape, rows)));
  scratch_size_ = 2 * tall * std::max(actor_->row, critic_->row) + tall * 2 * actions_ + kAlign +
                  std::max(head, weight_block_workspace());
  // The first pass over the list counts, the second hands out.
  for (const bool count : {true, false}) {
    int64_t used = 0;
    auto take = [&](int64_t n) {
      float* at = count ? nullptr : room_.get() + used;
      used += (n + kAlign - 1) / kAlign * kAlign;
      return at;
    };
    for (float** x : {&x_, &next_x_, &new_x_}) *x = take(rows * inputs);
    for (float** column : {&alpha_, &log_prob_, &next_log_prob_, &y_, &least_, &dlog_prob_})
      *column = take(rows);
    for (float** values : {&next_q_, &q_, &dq_}) *values = take(critics * rows);
    daction_ = take(rows * actions_);
    for (float** output : {&output_, &doutput_}) *output = take(rows * 2 * actions_);
    int64_t forward = 0, backward = 0;
    for (Network* network : {actor_.get(), critic_.get(), target_.get()}) {
      const MultiHeadShape& s = network->shape;
      const int64_t inner = (s.depth - 1) * packed_size(s.width, s.width);
      forward = std::max(forward, s.critics * (packed_size(s.inputs, s.width) + inner));
      if (network == target_.get()) continue;
      backward = std::max(backward, s.critics * (packed_size(s.width, s.inputs) + inner));
      for (float*& layer : network->hidden) layer = take(s.critics * rows * network->row);
      const int64_t together = network == critic_.get() ? group_size() : 1;
      for (float*& layer : network->dz) layer = take(together * rows * network->row);
      for (float*& layer : network->sums) layer = take(together * Blocks(rows).count() * network->row);
    }
    forward_room_ = take(forward);
    backward_room_ = take(backward);
    scratch_ = take(team_.size() * (scratch_size_ = (scratch_size_ + kAlign - 1) / kAlign * kAlign));
    if (count) room_.reset(allocate(used));
  }
  route_.resize(rows);
  route_start_.resize(critics + 1);
  rows_ = rows;
  kernel_ = matmul_kernel();
}

SacUpdate::Scratch SacUpdate::scratch(int thread) const {
  const int64_t tall = Blocks(rows_).size, block = tall * std::max(actor_->row, critic_->row);
  float* at = scratch_ + thread * scratch_size_;
  const int64_t outputs = (tall * 2 * actions_ + kAlign - 1) / kAlign * kAlign;
  return {{at, at + block}, at + 2 * block, at + 2 * block + outputs};
}

void SacUpdate::pack_forward(Network& network, const float* value) {
  const MultiHeadShape& s = network.shape;
  const Parameters<const float> at{s, value};
  team_.run(s.depth * s.critics, [&](int64_t i, int) {
    const int64_t layer = i / s.critics, e = i % s.critics, inputs = at.inputs(layer);
    const int64_t first = packed_size(s.inputs, s.width), other = packed_size(s.width, s.width);
    float* room = forward_room_ + (layer ? s.critics * first + (i - s.critics) * other : e * first);
    network.forward[i] = pack(inputs, s.width, {at.kernel(layer, e), s.width, 1}, room);
  });
}

void SacUpdate::pack_backward(Network& network, const float* value, int64_t first_inputs) {
  const MultiHeadShape& s = network.shape;
  const Parameters<const float> at{s, value};
  team_.run(s.depth * s.critics, [&](int64_t i, int) {
    const int64_t layer = i / s.critics, e = i % s.critics, inputs = layer ? s.width : first_inputs;
    const int64_t first = packed_size(s.width, first_inputs), other = packed_size(s.width, s.width);
    float* room = backward_room_ + (layer ? s.critics * first + (i - s.critics) * other : e * first);
    network.backward[i] = pack(s.width, inputs, {at.kernel(layer, e), 1, s.width}, room);
  });
}

void SacUpdate::forward_rows(const Network& network, const float* value, int64_t e, int64_t rows,
                             const float* x, const int64_t* task, float* const* hidden, float* out,
                             float* workspace) const {
  const MultiHeadShape& s = network.shape;
  const Parameters<const float> at{s, value};
  for (int64_t layer = 0; layer < s.depth; ++layer) {
    const float* left = layer ? hidden[layer - 1] : x;
    matmul(rows, left, layer ? network.row : s.inputs, network.forward[layer * s.critics + e], hidden[layer],
           network.row, false);
    add_bias_relu(rows, s.width, at.bias(layer, e), layer ? nullptr : at.task_row(e), layer ? nullptr : task,
                  hidden[layer], network.row);
  }
  head_gather_forward(head_of(s, rows), hidden[s.depth - 1], at.head_kernel(e), at.head_bias(e), task, out,
                      workspace);
}

void SacUpdate::backward_rows(const Network& network, const float* value, int64_t e, int64_t rows,
                              const int64_t* task, const float* dout, float* const* hidden, float* const* dz,
                              float* const* sums, float* workspace) const {
  const MultiHeadShape& s = network.shape;
  const int64_t last = s.depth - 1;
  head_gather_backward(head_of(s, rows), hidden[last], Parameters<const float>{s, value}.head_kernel(e), task,
                       dout, dz[last], nullptr, nullptr, workspace);
  mask_rows(rows, s.width, hidden[last], network.row, dz[last], network.row, sums[last]);
  for (int64_t layer = last; layer > 0; --layer) {
    matmul(rows, dz[layer], network.row, network.backward[layer * s.critics + e], dz[layer - 1], network.row,
           false);
    mask_rows(rows, s.width, hidden[layer - 1], network.row, dz[layer - 1], network.row,
              layer > 1 ? sums[layer - 1] : nullptr);
  }
}

void SacUpdate::weight_gradients(const Network& network, int64_t first, int64_t count, int64_t rows,
                                 const float* x, const int64_t* task, const float* dout, float* gradient) {
  const MultiHeadShape& s = network.shape;
  const Parameters<float> at{s, gradient};
  const int64_t blocks = Blocks(rows).count();
  struct Job {
    int64_t layer, e, i, j;  // layer -1: the head; j -1: the biases
  };
  std::vector<Job> jobs;
  for (int64_t layer = s.depth - 1; layer >= 0; --layer) {
    for (int64_t e = first; e < first + count; ++e) {
      const WeightBlock block = weight_block(at.inputs(layer), s.width);
      for (int64_t i = 0; i < at.inputs(layer); i += block.inputs) {
        for (int64_t j = 0; j < s.width; j += block.outputs) jobs.push_back({layer, e, i, j});
      }
    }
  }
  for (int64_t e = first; e < first + count; ++e) {
    for (int64_t layer = -1; layer < s.depth; ++layer) jobs.push_back({layer, e, 0, -1});
  }
  team_.run(static_cast<int64_t>(jobs.size()), [&](int64_t index, int thread) {
    const auto [layer, e, i, j] = jobs[index];
    float* workspace = scratch(thread).workspace;
    if (layer < 0) {
      const float* last = network.hidden[s.depth - 1] + (e - first) * rows * network.row;
      head_gather_backward(head_of(s, rows), last, nullptr, task, dout + e * rows * s.outputs, nullptr,
                           at.head_kernel(e), at.head_bias(e), workspace);
      return;
    }
    const float* dz = network.dz[layer] + (e - first) * rows * network.row;
    if (j < 0 && layer) {
      const float* sums = network.sums[layer] + (e - first) * blocks * network.row;
      bias_gradient(blocks, s.width, 0, sums, network.row, nullptr, at.bias(layer, e), nullptr);
      return;
    }
    if (j < 0) {
      bias_gradient(rows, s.width, s.tasks, dz, network.row, task, at.bias(0, e), at.task_row(e));
      return;
    }
    const float* left = layer ? network.hidden[layer - 1] + (e - first) * rows * network.row : x;
    weight_gradient_block(rows, at.inputs(layer), s.width, i, j, left, layer ? network.row : s.inputs, dz,
                          network.row, at.kernel(layer, e), workspace);
  });
}
