#include "replay/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

// So that the address sanitizer sees what is beside the memory asked for.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#endif
#endif
#if !defined(ASAN_POISON_MEMORY_REGION)
#define ASAN_POISON_MEMORY_REGION(at, bytes) (void)(at), (void)(bytes)
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) (void)(at), (void)(bytes)
#endif

namespace {

constexpr size_t kHugePage = size_t{1} << 21;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

// The file's name is gone before this returns.
int open_nameless(const std::string& folder) {
#ifdef O_TMPFILE
  const int file = open(folder.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  if (file >= 0) return file;  // else a file system that cannot, as NFS
#endif
  std::string path = folder + "/replay.XXXXXX";
  const int named = mkstemp(path.data());
  if (named < 0) fail("cannot make replay storage in the folder " + folder);
  unlink(path.c_str());
  return named;
}

// Gives the file its blocks at once: on a full disk this fails, where a later store would kill the process.
// Returns 0 or an errno.
int reserve(int file, size_t bytes) {
  const auto size = static_cast<off_t>(bytes);
#ifdef __APPLE__  // compiled, never run
  fstore_t blocks = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, size, 0};
  return fcntl(file, F_PREALLOCATE, &blocks) < 0 || ftruncate(file, size) < 0 ? errno : 0;
#else
  return posix_fallocate(file, 0, size);
#endif
}

void* map_file(size_t bytes, const std::string& folder) {
  const int file = open_nameless(folder);
  int error = reserve(file, bytes);
  void* mapping = MAP_FAILED;
  if (error == 0) {
    mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    error = errno;
  }
  close(file);
  errno = error;
  if (mapping == MAP_FAILED)
    fail("cannot take " + std::to_string(bytes) + " bytes of replay storage in the folder " + folder);
  return mapping;
}

}  // namespace

Arena::Arena(size_t bytes, const std::string& folder) : bytes_(bytes) {
  if (bytes == 0) return;
  if (!folder.empty()) {
    mapped_ = bytes;
    data_ = mapping_ = map_file(bytes, folder);
    return;
  }
  mapped_ = bytes + kHugePage;
  // The system refuses what is more than all its memory; what is less it gives page by page.
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    fail("cannot map " + std::to_string(bytes) +
         " bytes for the replay; lower replay.capacity or set run.replay_folder");
  }
  const auto start = (reinterpret_cast<uintptr_t>(mapping_) + kHugePage - 1) / kHugePage * kHugePage;
  data_ = reinterpret_cast<void*>(start);
  ASAN_POISON_MEMORY_REGION(mapping_, start - reinterpret_cast<uintptr_t>(mapping_));
  ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(start + bytes),
                            reinterpret_cast<uintptr_t>(mapping_) + mapped_ - start - bytes);
#ifdef MADV_HUGEPAGE
  madvise(data_, bytes, MADV_HUGEPAGE);  // only advice: 4 KB pages work as well, slower
#endif
}

Arena::~Arena() {
  if (mapping_ == nullptr) return;
  ASAN_UNPOISON_MEMORY_REGION(mapping_, mapped_);
  munmap(mapping_, mapped_);
}

void Arena::swap(Arena& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
}
