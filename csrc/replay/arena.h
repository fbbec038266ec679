#pragma once

#include <cstddef>
#include <string>

// Zeroed memory that is only taken from the machine page by page, as it is first written; huge pages are
// asked for. With a path the memory is a file's (made or resized, removed by nobody): for buffers larger than
// memory.
class Arena {
 public:
  Arena() = default;
  explicit Arena(size_t bytes,
                 const std::string& path = "");  // throws std::runtime_error naming size and path
  ~Arena();
  Arena(Arena&& other) noexcept { swap(other); }
  Arena& operator=(Arena&& other) noexcept {
    swap(other);
    return *this;
  }

  void* data() const { return data_; }  // aligned to 4096 bytes at least
  size_t bytes() const { return bytes_; }

 private:
  void swap(Arena& other) noexcept;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
};
