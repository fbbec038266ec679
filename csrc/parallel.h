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
// sleeps. A loop ends when its indices are done: a worker that the machine gives no time is not waited for,
// unless it has begun one. Not for several callers at once. What a loop computes must not depend on which
// thread takes an index: then the number of threads does not show.
class Team {
 public:
  explicit Team(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~Team() {
    stop_ = true;
    open(0);
    for (std::thread& worker : workers_) worker.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index, thread) once for every index in [0, count), and returns when all are done. count is
  // below 2^32 - 1.
  template <class Body>
  void run(int64_t count, const Body& body) {
    if (workers_.empty() || count <= 1) {
      for (int64_t i = 0; i < count; ++i) body(i, 0);
      return;
    }
    ticket_ = ticket_ | kClosed;  // from here on no late worker can take an index of what stood here before
    body_ = &body;
    call_ = [](const void* b, int64_t i, int thread) { (*static_cast<const Body*>(b))(i, thread); };
    open(count);
    share(0);
    for (int spin = 0; done_ < count; ++spin) rest(spin);
  }

 private:
  using Call = void (*)(const void*, int64_t, int);
  static constexpr int kSpins = 20'000;  // some 100 us
  static constexpr uint64_t kClosed = 0xFFFFFFFF;

  static void rest(int spin) {
    if (spin > kSpins) {
      std::this_thread::yield();
      return;
    }
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  void open(int64_t count) {
    count_ = count;
    done_ = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ticket_ = ((ticket_ >> 32) + 1) << 32;
    }
    if (sleeping_) wake_.notify_all();
  }

  // Takes indices of the loop until there are none. What is read of a loop counts only if its ticket is still
  // the same afterwards.
  void share(int thread) {
    uint64_t ticket = ticket_;
    while (true) {
      const int64_t index = ticket & kClosed;
      const void* body = body_;
      const Call call = call_;
      if (index >= count_) return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
      call(body, index, thread);
      ++done_;
      ticket = ticket_;
    }
  }

  void work(int thread) {
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && ticket_ >> 32 == seen; ++spin) rest(spin);
      if (ticket_ >> 32 == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, [&] { return ticket_ >> 32 != seen; });
        --sleeping_;
      }
      seen = ticket_ >> 32;
      if (stop_) return;
      share(thread);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> ticket_{0};  // the loop's number, then the next index; all bits of that where closed
  std::atomic<int64_t> count_{0}, done_{0};
  std::atomic<const void*> body_{nullptr};
  std::atomic<Call> call_{nullptr};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
};
