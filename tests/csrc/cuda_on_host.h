// Runs the kernels' own CUDA source on the host, one block after another, the threads of a block as fibers:
// include this first, then the .cu. Barriers, warp collectives, shared memory and atomics behave as on a GPU;
// what CUDA leaves undefined (a barrier that not all reach, a lane outside its mask) throws CudaError naming
// thread and line. Threads run in `order`, each until its next barrier, so a missing barrier shows as a wrong
// result in some order, unless its harm needs two threads in the midst of their work at once: that shows as a
// race (cuda_races.cpp), where the kernels were compiled with -fsanitize=thread. Shared memory is filled with
// NaN before each block. Not modelled: races between atomics, weak memory, tensor cores.
#ifndef MTRL_CUDA_LAUNCH_H
#define MTRL_CUDA_LAUNCH_H

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/stream.h"

#if defined(__SANITIZE_ADDRESS__)
#define MTRL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MTRL_ASAN 1
#endif
#endif
#ifdef MTRL_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define MTRL_UNROLL
// One section for all static shared memory, so that it can be poisoned. (g++ leaves out what templates
// declare; that is only watched for reads of what its block never wrote.)
#define __shared__ static __attribute__((section("cuda_shared")))
extern "C" char __start_cuda_shared[] __attribute__((weak));
extern "C" char __stop_cuda_shared[] __attribute__((weak));

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fiber that runs
namespace cuda_on_host {
inline int64_t launches = 0;  // since the process began
}

#if defined(MTRL_RACES)
#elif defined(__SANITIZE_THREAD__)
#define MTRL_RACES 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MTRL_RACES 1
#endif
#endif

namespace cuda_on_host {

// For cuda_races.cpp. `watched`: a kernel's own code is running. `epoch`: counts barriers, over all blocks.
inline bool watched = false;
inline uint64_t epoch = 0;
#ifdef MTRL_RACES
void forget_accesses();  // at a launch
void settle_write();     // the running fiber's last write has been done
#else
inline void forget_accesses() {}
inline void settle_write() {}
#endif

// What follows is the header's, not the kernel's. The compiler must not move it over the edges. Where it is
// not inlined, the linker may take the copy of a watched kernel's file: that copy must not watch itself.
struct Unwatched {
  bool before = watched;
  __attribute__((no_sanitize("thread"))) Unwatched() {
    watched = false;
    asm volatile("" ::: "memory");
  }
  __attribute__((no_sanitize("thread"))) ~Unwatched() {
    asm volatile("" ::: "memory");
    watched = before;
    asm volatile("" ::: "memory");
  }
};

enum class Order { ascending, reversed, random };
inline Order order = Order::ascending;
inline std::mt19937_64 shuffler;

constexpr size_t kStack = size_t{1} << 18;
constexpr int kLanes = 32;
enum class State { ready, at_barrier, in_warp, left };

struct Fiber {
  ucontext_t context;
  char* stack = nullptr;
  dim3 thread;
  State state = State::left;
  const char* place = "";
  int line = 0;
  unsigned mask = 0, warp_barriers = 0;
  uint64_t given = 0;         // to the warp's collective
  uint64_t received[kLanes];  // from its lanes; all bits set where a lane gave nothing
};

struct Block {
  std::vector<Fiber> fibers;
  size_t threads = 0, running = 0;
  ucontext_t scheduler;
  std::vector<unsigned char> dynamic;
  unsigned char* dynamic_start = nullptr;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  const char* fault = nullptr;
  bool fenced = false;  // has gone through __threadfence
};
inline Block block;  // one launch at a time

inline void switch_fiber(ucontext_t* from, ucontext_t* to, const void* stack, size_t size, bool leaves) {
#ifdef MTRL_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(leaves ? nullptr : &fake, stack, size);
  swapcontext(from, to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  (void)stack, (void)size, (void)leaves;
  swapcontext(from, to);
#endif
}

#ifdef MTRL_ASAN
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_size = 0;
#else
constexpr const void* scheduler_stack = nullptr;
constexpr size_t scheduler_size = 0;
#endif

inline void to_scheduler(State state) {
  Fiber& fiber = block.fibers[block.running];
  fiber.state = state;
  switch_fiber(&fiber.context, &block.scheduler, scheduler_stack, scheduler_size, state == State::left);
}

inline std::string at(const Fiber& fiber) {
  const auto thread = fiber.thread.x + blockDim.x * (fiber.thread.y + blockDim.y * fiber.thread.z);
  return "thread " + std::to_string(thread) + " of block " + std::to_string(blockIdx.x) + " at " +
         fiber.place + ":" + std::to_string(fiber.line);
}

inline void start_fiber() {
#ifdef MTRL_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  watched = true;
  block.body(block.arguments);
  watched = false;
  settle_write();
  to_scheduler(State::left);
}

inline void prepare(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    void* memory =
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw CudaError("cuda_on_host", "no memory for a fiber's stack");
    fiber.stack = static_cast<char*>(memory);
  }
#ifdef MTRL_ASAN
  __asan_unpoison_memory_region(fiber.stack, kStack);
#endif
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, start_fiber, 0);
  fiber.state = State::ready;
  fiber.warp_barriers = 0;
}

inline void poison_shared(size_t bytes) {
  if (__start_cuda_shared != nullptr)
    std::memset(__start_cuda_shared, 0xFF, static_cast<size_t>(__stop_cuda_shared - __start_cuda_shared));
  // Exactly as long as asked for, so that AddressSanitizer sees what goes beyond; fresh for each block.
  block.dynamic = std::vector<unsigned char>(bytes, 0xFF);
  block.dynamic_start = block.dynamic.data();
}

// Lets the warp's collectives happen whose lanes have all come. True if there was one.
inline bool release_warp(size_t first) {
  bool released = false;
  const size_t lanes = std::min<size_t>(kLanes, block.threads - first);
  for (size_t lane = 0; lane < lanes; ++lane) {
    Fiber& leader = block.fibers[first + lane];
    if (leader.state != State::in_warp) continue;
    std::vector<Fiber*> group;
    bool complete = true;
    uint64_t given[kLanes];
    std::fill_n(given, kLanes, ~uint64_t{0});
    for (size_t other = 0; other < lanes; ++other) {
      Fiber& fiber = block.fibers[first + other];
      if ((leader.mask >> other & 1) == 0 || fiber.state == State::left) continue;
      complete = complete && fiber.state == State::in_warp && fiber.mask == leader.mask &&
                 fiber.line == leader.line && fiber.place == leader.place;
      group.push_back(&fiber);
      given[other] = fiber.given;
    }
    if (!complete) continue;
    for (Fiber* fiber : group) {
      std::copy_n(given, kLanes, fiber->received);
      fiber->state = State::ready;
    }
    released = true;
  }
  return released;
}

inline bool release_barrier() {
  const Fiber* leader = nullptr;
  for (size_t t = 0; t < block.threads; ++t) {
    const Fiber& fiber = block.fibers[t];
    if (fiber.state == State::left) continue;
    if (leader == nullptr) leader = &fiber;
    if (fiber.state != State::at_barrier || fiber.line != leader->line || fiber.place != leader->place)
      throw CudaError("cuda_on_host", "threads wait for one another: " + at(*leader) + ", " + at(fiber));
  }
  ++epoch;
  for (size_t t = 0; t < block.threads; ++t)
    if (block.fibers[t].state == State::at_barrier) block.fibers[t].state = State::ready;
  return leader != nullptr;
}

inline void run_fiber(size_t t) {
  Fiber& fiber = block.fibers[t];
  if (fiber.state != State::ready) return;
  block.running = t;
  threadIdx = fiber.thread;
  switch_fiber(&block.scheduler, &fiber.context, fiber.stack, kStack, false);
  if (block.fault != nullptr) throw CudaError("cuda_on_host", block.fault + at(fiber));
}

// Each ready thread once; but where the lanes of a warp follow one another, a warp runs ahead of the others,
// through all its collectives, to the next barrier.
inline void run_ready(const std::vector<size_t>& turns) {
  for (size_t first = 0; first < turns.size();) {
    size_t past = first + 1;
    while (past < turns.size() && turns[past] / kLanes == turns[first] / kLanes) ++past;
    do {
      for (size_t i = first; i < past; ++i) run_fiber(turns[i]);
    } while (order != Order::random && release_warp(turns[first] / kLanes * kLanes));
    first = past;
  }
}

inline void run_block() {
  std::vector<size_t> turns(block.threads);
  std::iota(turns.begin(), turns.end(), size_t{0});
  if (order == Order::reversed) std::reverse(turns.begin(), turns.end());
  ++epoch;
  block.fenced = false;
  for (size_t t = 0; t < block.threads; ++t) {
    prepare(block.fibers[t]);
    const auto index = static_cast<unsigned>(t);
    block.fibers[t].thread = {index % blockDim.x, index / blockDim.x % blockDim.y,
                              index / blockDim.x / blockDim.y};
  }
  for (bool going = true; going;) {
    if (order == Order::random) std::shuffle(turns.begin(), turns.end(), shuffler);
    run_ready(turns);
    going = false;
    for (size_t first = 0; first < block.threads; first += kLanes) going = release_warp(first) || going;
    going = going || release_barrier();
  }
}

// Calls body() under each order in turn.
template <class Body>
void in_every_order(Body body) {
  for (Order each : {Order::ascending, Order::reversed, Order::random, Order::random}) {
    order = each;
    body();
  }
  order = Order::ascending;
}

inline void wait(State state, const char* place, int line) {
  const Unwatched header;
  settle_write();
  Fiber& fiber = block.fibers[block.running];
  fiber.place = place;
  fiber.line = line;
  to_scheduler(state);
}

// What the lanes of `mask` gave, once all of them are here.
inline const uint64_t* collect(unsigned mask, uint64_t given, const char* place, int line) {
  const Unwatched header;
  Fiber& fiber = block.fibers[block.running];
  fiber.mask = mask;
  fiber.given = given;
  if ((mask >> (block.running % kLanes) & 1) == 0) block.fault = "its own lane is not in the mask: ";
  wait(State::in_warp, place, line);
  return fiber.received;
}

template <class T>
T shuffle(unsigned mask, T value, int from, int width, const char* place, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const int lane = static_cast<int>(block.running % kLanes), start = lane & ~(width - 1);
  const uint64_t* received = collect(mask, bits, place, line);
  std::memcpy(&value, &received[from < start || from >= start + width ? lane : from], sizeof value);
  return value;
}

inline unsigned ballot(unsigned mask, bool predicate, const char* place, int line) {
  const uint64_t* received = collect(mask, predicate, place, line);
  unsigned votes = 0;
  for (int lane = 0; lane < kLanes; ++lane)
    votes |= static_cast<unsigned>((mask >> lane & 1) != 0 && received[lane] == 1) << lane;
  return votes;
}

inline void wait_for_warp(const char* place, int line) {
  const Unwatched header;
  collect(0xFFFFFFFFu, 0, place, line);
  ++block.fibers[block.running].warp_barriers;
}

inline int lane() { return static_cast<int>(block.running % kLanes); }

}  // namespace cuda_on_host

#define __syncthreads() cuda_on_host::wait(cuda_on_host::State::at_barrier, __FILE__, __LINE__)
#define __syncwarp() cuda_on_host::wait_for_warp(__FILE__, __LINE__)
#define __shfl_sync(mask, value, from) cuda_on_host::shuffle(mask, value, (from) % 32, 32, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, apart) \
  cuda_on_host::shuffle(mask, value, cuda_on_host::lane() ^ (apart), 32, __FILE__, __LINE__)
#define __shfl_down_sync(mask, value, by) \
  cuda_on_host::shuffle(mask, value, cuda_on_host::lane() + (by), 32, __FILE__, __LINE__)
#define __shfl_up_sync(mask, value, by) \
  cuda_on_host::shuffle(mask, value, cuda_on_host::lane() - (by), 32, __FILE__, __LINE__)
#define __ballot_sync(mask, predicate) cuda_on_host::ballot(mask, predicate, __FILE__, __LINE__)

inline void __threadfence() {
  const cuda_on_host::Unwatched header;
  cuda_on_host::block.fenced = true;
}
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  const cuda_on_host::Unwatched header;
  return *from;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(Wide{a} * b >> 64);
}
inline long long __double_as_longlong(double x) {
  long long bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T, class Value>
T atomicAdd(T* to, Value value) {
  const cuda_on_host::Unwatched header;
  const T old = *to;
  *to = old + static_cast<T>(value);
  return old;
}
template <class T, class Value>
T atomicMax(T* to, Value value) {
  const cuda_on_host::Unwatched header;
  const T old = *to;
  *to = std::max(old, static_cast<T>(value));
  return old;
}
inline unsigned atomicInc(unsigned* to, unsigned last) {
  const cuda_on_host::Unwatched header;
  const unsigned old = *to;
  *to = old >= last ? 0 : old + 1;
  return old;
}

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(cuda_on_host::block.dynamic_start);
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared_bytes,
            cudaStream_t, Arguments... arguments) {
  using namespace cuda_on_host;
  ++launches;
  auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  block.body = [](void* run) { (*static_cast<decltype(body)*>(run))(); };
  block.arguments = &body;
  block.threads = size_t{threads.x} * threads.y * threads.z;
  if (block.threads == 0 || block.threads > 1024 || blocks.x == 0 || shared_bytes > 48 * 1024)
    throw CudaError(name, "no GPU takes this launch");
  if (block.fibers.size() < block.threads) block.fibers.resize(block.threads);
  block.fault = nullptr;
  forget_accesses();
  gridDim = blocks;
  blockDim = threads;
  const unsigned count = blocks.x * blocks.y * blocks.z;
  for (unsigned turn = 0; turn < count; ++turn) {
    const unsigned index = order == Order::reversed ? count - 1 - turn : turn;
    blockIdx = {index % blocks.x, index / blocks.x % blocks.y, index / blocks.x / blocks.y};
    poison_shared(shared_bytes);
    run_block();
  }
}

#endif
