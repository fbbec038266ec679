#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "forks.h"

// A team of threads that shares loops. The caller is thread 0 and works too; a team of one has no other
// thread. Between loops a worker spins for a moment (waking a sleeping one costs about 70 us) and then
// sleeps. A loop ends when its indices are done: a worker that the machine gives no time is not waited for,
// unless it has begun one. Not for several callers at once. What a loop computes must not depend on which
// thread takes an index: then results are the same for any number of threads.
//
// In a forked child, which has no workers, the caller does all of a loop alone.
class Team {
 public:
  // Throws std::runtime_error where the system starts no more threads.
  explicit Team(int threads) : size_(threads), forks_(forks()) {
    if (threads > 1) crew_ = std::make_unique<Crew>(threads);
  }
  ~Team() {
    if (forks() != forks_) crew_.release();  // its threads stayed in the parent: nothing of it can be joined
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Calls body(index, thread) once for every index in [0, count), and returns when all are done. count is
  // below 2^32 - 1. Rethrows the first exception that a body threw, after all indices.
  template <class Body>
  void run(int64_t count, const Body& body) {
    if (crew_ && count > 1 && forks() == forks_) return crew_->run(count, body);
    for (int64_t i = 0; i < count; ++i) body(i, 0);
  }

 private:
  class Crew {
   public:
    explicit Crew(int threads) {
      try {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
      } catch (const std::system_error& error) {
        const size_t started = workers_.size() + 1;
        stop();
        throw std::runtime_error("cannot start more than " + std::to_string(started) + " of " +
                                 std::to_string(threads) + " threads: " + error.what() +
                                 "; lower run.threads");
      }
    }
    ~Crew() { stop(); }

    template <class Body>
    void run(int64_t count, const Body& body) {
      ticket_ = ticket_ | kClosed;  // from here on no late worker can take an index of what stood here before
      body_ = &body;
      call_ = [](const void* b, int64_t i, int thread) { (*static_cast<const Body*>(b))(i, thread); };
      open(count);
      share(0);
      for (int spin = 0; done_ < count; ++spin) rest(spin);
      if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
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

    void stop() {
      stop_ = true;
      open(0);
      for (std::thread& worker : workers_) worker.join();
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

    // Takes indices of the loop until there are none. What is read of a loop counts only if its ticket is
    // still the same afterwards.
    void share(int thread) {
      uint64_t ticket = ticket_;
      while (true) {
        const int64_t index = ticket & kClosed;
        const void* body = body_;
        const Call call = call_;
        if (index >= count_) return;
        if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
        try {
          call(body, index, thread);
        } catch (...) {
          std::lock_guard<std::mutex> lock(mutex_);
          if (!failure_) failure_ = std::current_exception();
        }
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
    std::exception_ptr failure_;  // the first of this loop
    std::atomic<uint64_t> ticket_{
        0};  // the loop's number, then the next index; all bits of that where closed
    std::atomic<int64_t> count_{0}, done_{0};
    std::atomic<const void*> body_{nullptr};
    std::atomic<Call> call_{nullptr};
    std::atomic<int> sleeping_{0};
    std::atomic<bool> stop_{false};
  };

  int size_, forks_;
  std::unique_ptr<Crew> crew_;
};
