#include "replay/checked_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

Tables make_tables() {
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0xEDB88320u : 0u);
    tables[0][i] = value;
  }
  for (int k = 1; k < 8; ++k)
    for (int i = 0; i < 256; ++i) tables[k][i] = (tables[k - 1][i] >> 8) ^ tables[0][tables[k - 1][i] & 255];
  return tables;
}

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw std::runtime_error(what + " " + path + ": " + std::strerror(errno));
}

// An open file.
class File {
 public:
  File(const std::string& path, int flags)
      : path_(path), handle_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (handle_ < 0) fail("cannot open", path);
  }
  ~File() { close(handle_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int handle() const { return handle_; }

  void put(const void* bytes, size_t n) const {
    for (const char* at = static_cast<const char*>(bytes); n > 0;) {
      const ssize_t put = ::write(handle_, at, n);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail("cannot write", path_);
      at += put;
      n -= static_cast<size_t>(put);
    }
  }
  void sync() const {
    if (fsync(handle_) != 0) fail("cannot sync", path_);
  }

 private:
  std::string path_;
  int handle_;
};

}  // namespace

uint32_t crc32(uint32_t before, const void* bytes, size_t n) {
  static const Tables table = make_tables();
  const auto* at = static_cast<const uint8_t*>(bytes);
  uint32_t value = ~before;
  for (; n >= 8; n -= 8, at += 8) {
    uint32_t low, high;
    std::memcpy(&low, at, 4);
    std::memcpy(&high, at + 4, 4);
    low ^= value;
    value = table[7][low & 255] ^ table[6][(low >> 8) & 255] ^ table[5][(low >> 16) & 255] ^
            table[4][low >> 24] ^ table[3][high & 255] ^ table[2][(high >> 8) & 255] ^
            table[1][(high >> 16) & 255] ^ table[0][high >> 24];
  }
  for (; n > 0; --n) value = (value >> 8) ^ table[0][(value ^ *at++) & 255];
  return ~value;
}

uint32_t write_file(const std::string& path,
                    const std::function<void(const std::function<void(const void*, size_t)>&)>& write) {
  const std::string unfinished = path + ".unfinished";
  uint32_t checksum = 0;
  try {
    const File file(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
    write([&](const void* bytes, size_t n) {
      checksum = crc32(checksum, bytes, n);
      file.put(bytes, n);
    });
    file.sync();
  } catch (...) {
    unlink(unfinished.c_str());
    throw;
  }
  if (rename(unfinished.c_str(), path.c_str()) != 0) fail("cannot rename to", path);
  const size_t slash = path.rfind('/');
  File(slash == std::string::npos ? "." : path.substr(0, slash + 1), O_RDONLY | O_DIRECTORY).sync();
  return checksum;
}

MappedFile::MappedFile(const std::string& path) {
  const File file(path, O_RDONLY);
  struct stat status;
  if (fstat(file.handle(), &status) != 0) fail("cannot read", path);
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  void* mapping = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.handle(), 0);
  if (mapping == MAP_FAILED) fail("cannot read", path);
  madvise(mapping, size_, MADV_SEQUENTIAL);
  data_ = static_cast<const uint8_t*>(mapping);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}
