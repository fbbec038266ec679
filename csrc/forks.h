#pragma once

#include <pthread.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>

// How many forks lie between this process and the one that first asked. A forked child has none of its
// parent's threads: what was made at another count may wait for a thread that is not there.
inline int forks() {
  static std::atomic<int> count{0};
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++count; });
  (void)registered;
  return count;
}

// A mutex that a forked child can go on using, unless a thread of the parent held it at the fork.
class ForkMutex {
 public:
  // Throws std::runtime_error naming `owner` where a thread of the parent held it: waiting would never end.
  std::unique_lock<std::mutex> lock(const char* owner) const {
    if (forks() == forks_) return std::unique_lock<std::mutex>(mutex_);
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock)
      throw std::runtime_error("another thread was using " + std::string(owner) +
                               " when this process was forked; use it in the process that made it");
    forks_ = forks();
    return lock;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::atomic<int> forks_{forks()};
};
