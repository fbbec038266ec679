#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// A team of threads that shares loops. The caller is thread 0 and works too; a team of one has no other
// thread. Between loops a worker spins for a moment (waking a sleeping one costs about 70 us) and then
// sleeps. Not for several callers at once. What a loop computes must not depend on which thread takes an
// index: then the number of threads does not show.
class Team {
 public:
  explicit Team(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~Team() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index, thread) once for every index in [0, count), and returns when all are done.
  template <class Body>
  void run(int64_t count, const Body& body) {
    if (workers_.empty() || count <= 1) {
      for (int64_t i = 0; i < count; ++i) body(i, 0);
      return;
    }
    body_ = &body;
    call_ = [](const void* b, int64_t i, int thread) { (*static_cast<const Body*>(b))(i, thread); };
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load()) wake_.notify_all();
    share(0);
    for (int spin = 0; busy_.load(std::memory_order_acquire) > 0; ++spin) rest(spin);
  }

 private:
  static constexpr int kSpins = 20'000;  // some 100 us

  static void rest(int spin) {
    if (spin > kSpins) {
      std::this_thread::yield();
      return;
    }
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  void share(int thread) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) call_(body_, i, thread);
  }

  void work(int thread) {
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin)
        rest(spin);
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        --sleeping_;
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      share(thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> sleeping_{0}, busy_{0};
  std::atomic<int64_t> next_{0};
  bool stop_ = false;
  int64_t count_ = 0;
  const void* body_ = nullptr;
  void (*call_)(const void*, int64_t, int) = nullptr;
};
