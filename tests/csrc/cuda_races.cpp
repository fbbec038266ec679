// Sees races between the threads of a kernel that runs on the host. The tests of kernels are compiled with
// -fsanitize=thread, which puts a call before every access to memory; those calls end here instead of in the
// sanitizer's own library, which knows no fibers. Two accesses race where one is a write, threads differ, and
// nothing orders them: no barrier of their block; between lanes, no __syncwarp; between blocks, no
// __threadfence in the later one. Writes of equal values are no race: kernels do that on purpose. Reads of
// shared memory that the block never wrote are faults too.
#define MTRL_RACES 1
#include <unordered_map>

#include "cuda_on_host.h"

extern "C" char __data_start, _end;  // the linker's: where variables of static storage lie

namespace {

using namespace cuda_on_host;

constexpr unsigned kNobody = ~0u;

struct Access {
  uint64_t epoch = 0;
  unsigned block = 0, thread = kNobody, warp_barriers = 0;
};

struct Byte {
  Access write, read;
  bool several_read = false;  // in read's epoch
};

// A write over another thread's, until it can be seen whether it changes anything.
struct Pending {
  const unsigned char* at = nullptr;
  size_t size = 0;
  unsigned char before[16];
  Access other;
};

std::unordered_map<uintptr_t, Byte> shadow;
Pending pending;
std::string message;

Access own_access() {
  return {epoch, blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z),
          static_cast<unsigned>(block.running), block.fibers[block.running].warp_barriers};
}

bool is_within(uintptr_t at, const void* first, size_t size) {
  return at - reinterpret_cast<uintptr_t>(first) < size;
}

bool is_header(uintptr_t at) {
  for (const dim3* variable : {&threadIdx, &blockIdx, &blockDim, &gridDim})
    if (is_within(at, variable, sizeof *variable)) return true;
  return is_within(at, &block, sizeof block) || is_within(at, const_cast<bool*>(&watched), sizeof watched);
}

// Kernels have no variables of static storage but those.
bool is_shared(uintptr_t at) {
  return is_within(at, &__data_start, static_cast<size_t>(&_end - &__data_start)) ||
         is_within(at, block.dynamic.data(), block.dynamic.size());
}

bool is_ordered(const Access& before, const Access& now, bool shared) {
  if (before.thread == kNobody) return true;
  if (before.block != now.block) return shared || block.fenced;
  if (before.thread == now.thread || before.epoch != now.epoch) return true;
  return before.thread / kLanes == now.thread / kLanes && before.warp_barriers < now.warp_barriers;
}

// The scheduler adds who, and the barrier or collective before.
void report(const std::string& what) {
  message = what + ": ";
  block.fault = message.c_str();
}

void report_race(const Access& with) {
  report("a race with thread " + std::to_string(with.thread) + " of block " + std::to_string(with.block));
}

void note_read(uintptr_t at, const Access& now, bool shared) {
  Byte& byte = shadow[at];
  if (shared && (byte.write.thread == kNobody || byte.write.block != now.block))
    report("a read of shared memory that was never written");
  if (!is_ordered(byte.write, now, shared)) report_race(byte.write);
  const bool same_time = byte.read.thread != kNobody && byte.read.epoch == now.epoch;
  byte.several_read = same_time && (byte.several_read || byte.read.thread != now.thread);
  byte.read = now;
}

// The other thread's write that this one may undo, if there is one.
const Access* note_write(uintptr_t at, const Access& now, bool shared) {
  Byte& byte = shadow[at];
  const Access* other = is_ordered(byte.write, now, shared) ? nullptr : &byte.write;
  const bool read_by_others = byte.several_read && byte.read.epoch == now.epoch;
  if (read_by_others || !is_ordered(byte.read, now, shared)) report_race(byte.read);
  return other;
}

void access(const void* address, size_t size, bool writes) {
  if (!watched) return;
  const Unwatched header;
  settle_write();
  const auto first = reinterpret_cast<uintptr_t>(address);
  if (is_within(first, block.fibers[block.running].stack, kStack) || is_header(first)) return;
  const Access now = own_access();
  const bool shared = is_shared(first);
  for (size_t i = 0; i < size; ++i) {
    if (!writes) {
      note_read(first + i, now, shared);
      continue;
    }
    const Access* other = note_write(first + i, now, shared);
    if (other != nullptr && pending.at == nullptr && size <= sizeof pending.before) {
      pending = {reinterpret_cast<const unsigned char*>(first), size, {}, *other};
      std::memcpy(pending.before, pending.at, size);
    }
    shadow[first + i].write = now;
  }
}

}  // namespace

namespace cuda_on_host {

void forget_accesses() {
  shadow.clear();
  pending.at = nullptr;
}

void settle_write() {
  if (pending.at == nullptr) return;
  if (std::memcmp(pending.before, pending.at, pending.size) != 0) report_race(pending.other);
  pending.at = nullptr;
}

}  // namespace cuda_on_host

extern "C" {

#define MTRL_ACCESS(size)                                                 \
  void __tsan_read##size(void* at) { access(at, size, false); }           \
  void __tsan_write##size(void* at) { access(at, size, true); }           \
  void __tsan_unaligned_read##size(void* at) { access(at, size, false); } \
  void __tsan_unaligned_write##size(void* at) { access(at, size, true); } \
  void __tsan_volatile_read##size(void* at) { access(at, size, false); }  \
  void __tsan_volatile_write##size(void* at) { access(at, size, true); }
MTRL_ACCESS(1)
MTRL_ACCESS(2)
MTRL_ACCESS(4)
MTRL_ACCESS(8)
MTRL_ACCESS(16)
#undef MTRL_ACCESS

void __tsan_read_range(void* at, size_t size) { access(at, size, false); }
void __tsan_write_range(void* at, size_t size) { access(at, size, true); }
void* __tsan_memcpy(void* to, const void* from, size_t size) {
  access(from, size, false);
  access(to, size, true);
  return std::memcpy(to, from, size);
}
void* __tsan_memmove(void* to, const void* from, size_t size) {
  access(from, size, false);
  access(to, size, true);
  return std::memmove(to, from, size);
}
void* __tsan_memset(void* to, int value, size_t size) {
  access(to, size, true);
  return std::memset(to, value, size);
}

// What else the compiler calls: the tests' own code, in which no kernel runs.
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
int __tsan_atomic32_fetch_add(volatile int* to, int value, int) { return __atomic_fetch_add(to, value, 5); }
int __tsan_atomic32_load(const volatile int* from, int) { return __atomic_load_n(from, 5); }
signed char __tsan_atomic8_load(const volatile signed char* from, int) { return __atomic_load_n(from, 5); }
}
