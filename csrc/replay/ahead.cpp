#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "replay/replay_buffer.h"

// The batch that is drawn ahead. Whoever takes the lock next makes the draw before anything else: the thread
// beside, or the call that comes first. Nobody ever waits for a thread to wake up, and the draw sees the same
// buffer in either case.

ReplayBuffer::~ReplayBuffer() {
  if (!worker_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  worker_.join();
}

std::unique_lock<std::mutex> ReplayBuffer::settled() {
  std::unique_lock<std::mutex> lock(mutex_);
  settle();
  return lock;
}

void ReplayBuffer::settle() {
  if (ahead_.count.empty() || ahead_.drawn) return;
  try {
    draw_batch(ahead_.count.data(), ahead_.view);
    ahead_.drawn = true;
  } catch (const std::exception&) {
    ahead_ = {};  // the next `sample` meets what is wrong and tells, or finds it mended
  }
}

void ReplayBuffer::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_) {
    settle();
    wake_.wait(lock);
  }
}

void ReplayBuffer::ask(const int64_t* count, const BatchView& batch, bool on_thread) {
  {
    const auto lock = settled();
    ahead_ = {};
    ahead_.count.assign(count, count + settings_.shape.tasks);
    ahead_.view = batch;
    if (on_thread && !worker_.joinable()) worker_ = std::thread([this] { work(); });
  }
  wake_.notify_one();
}

std::vector<int64_t> ReplayBuffer::asked() {
  const auto lock = settled();
  return ahead_.count;
}

void ReplayBuffer::sample(const int64_t* count, const BatchView& batch) {
  const auto lock = settled();
  if (ahead_.count.empty()) return draw_batch(count, batch);
  if (!std::equal(ahead_.count.begin(), ahead_.count.end(), count))
    throw std::invalid_argument("a batch of other counts was drawn ahead");
  const auto from = columns_of(settings_.shape, ahead_.view), to = columns_of(settings_.shape, batch);
  for (size_t i = 0; i < from.size(); ++i)
    if (from[i].data != to[i].data) std::memcpy(to[i].data, from[i].data, from[i].bytes);
  ahead_ = {};
}
