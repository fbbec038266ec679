#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "replay/replay_buffer.h"

// The batch that is drawn before `sample` is called. Whoever takes the lock next draws it before anything
// else: the prefetch thread, or the call that comes first. So nobody waits for a thread to wake up, and the
// draw reads the same buffer in either case.

ReplayBuffer::~ReplayBuffer() {
  if (!worker_) return;
  if (worker_->at_forks != forks()) {
    worker_.release();
    return;
  }
  {
    const auto lock = mutex_.lock("this replay");
    worker_->stop = true;
  }
  worker_->wake.notify_one();
  worker_->thread.join();
}

std::unique_lock<std::mutex> ReplayBuffer::lock() const {
  if (!settings_.folder.empty() && at_forks_ != forks())
    throw std::runtime_error(
        "this replay's rows lie in a file that this process shares with the one it was forked from; make a "
        "replay of its own here");
  return mutex_.lock("this replay");
}

std::unique_lock<std::mutex> ReplayBuffer::lock_after_prefetch() {
  auto lock = this->lock();
  finish_prefetch();
  return lock;
}

void ReplayBuffer::finish_prefetch() {
  if (prefetched_.count.empty() || prefetched_.drawn) return;
  try {
    draw_batch(prefetched_.count.data(), prefetched_.view);
    prefetched_.drawn = true;
  } catch (const std::exception&) {
    prefetched_ = {};  // the next `sample` draws, and reports the error if it is still there
  }
}

// Null where the system starts no more threads: then the next call draws.
ReplayBuffer::Worker* ReplayBuffer::start_worker() {
  if (worker_ && worker_->at_forks != forks()) worker_.release();
  if (worker_) return worker_.get();
  auto worker = std::make_unique<Worker>();
  try {
    worker->thread = std::thread([this, own = worker.get()] {
      auto lock = mutex_.lock("this replay");
      while (!own->stop) {
        finish_prefetch();
        own->wake.wait(lock);
      }
    });
  } catch (const std::system_error&) {
    return nullptr;
  }
  worker_ = std::move(worker);
  return worker_.get();
}

void ReplayBuffer::prefetch(const int64_t* count, const BatchView& batch, bool on_thread) {
  Worker* woken = nullptr;
  {
    const auto lock = lock_after_prefetch();
    prefetched_ = {};
    prefetched_.count.assign(count, count + settings_.shape.tasks);
    prefetched_.view = batch;
    if (on_thread) woken = start_worker();
  }
  if (woken) woken->wake.notify_one();
}

std::vector<int64_t> ReplayBuffer::prefetched_counts() {
  const auto lock = lock_after_prefetch();
  return prefetched_.count;
}

void ReplayBuffer::sample(const int64_t* count, const BatchView& batch) {
  const auto lock = lock_after_prefetch();
  if (prefetched_.count.empty()) return draw_batch(count, batch);
  if (!std::equal(prefetched_.count.begin(), prefetched_.count.end(), count))
    throw std::invalid_argument("the prefetched batch has other counts");
  give_prefetched(batch);
}

// Needs a batch that was drawn; there is none afterwards.
void ReplayBuffer::give_prefetched(const BatchView& batch) {
  const auto from = columns_of(settings_.shape, prefetched_.view), to = columns_of(settings_.shape, batch);
  for (size_t i = 0; i < from.size(); ++i)
    if (from[i].data != to[i].data) std::memcpy(to[i].data, from[i].data, from[i].bytes);
  prefetched_ = {};
}
