#include "replay/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace {

constexpr size_t kHugePage = size_t{1} << 21;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

void* map_file(size_t bytes, const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) fail("cannot open replay storage " + path);
  // An old file's bytes must not be taken for rows, so it is emptied first.
  const bool sized = ftruncate(file, 0) == 0 && ftruncate(file, static_cast<off_t>(bytes)) == 0;
  void* mapping = sized ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  const int error = errno;
  close(file);
  errno = error;
  if (mapping == MAP_FAILED)
    fail("cannot make replay storage " + path + " of " + std::to_string(bytes) + " bytes");
  return mapping;
}

}  // namespace

Arena::Arena(size_t bytes, const std::string& path) : bytes_(bytes) {
  if (bytes == 0) return;
  if (!path.empty()) {
    mapped_ = bytes;
    data_ = mapping_ = map_file(bytes, path);
    return;
  }
  mapped_ = bytes + kHugePage;
  mapping_ =
      mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    fail("cannot map " + std::to_string(bytes) + " bytes for the replay; lower replay.capacity");
  }
  const auto start = (reinterpret_cast<uintptr_t>(mapping_) + kHugePage - 1) / kHugePage * kHugePage;
  data_ = reinterpret_cast<void*>(start);
#ifdef MADV_HUGEPAGE
  madvise(data_, bytes, MADV_HUGEPAGE);  // only advice: 4 KB pages work as well, slower
#endif
}

Arena::~Arena() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

void Arena::swap(Arena& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
}
