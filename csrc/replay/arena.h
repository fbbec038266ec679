#pragma once

#include <cstddef>
#include <string>

// Zeroed memory that is only taken from the machine page by page, as it is first written; huge pages are
// asked for. With a folder the memory is a file's there: for buffers larger than memory. All of its space is
// taken at once, so that a full disk is noticed here, and it has no name, so that nothing of it is left
// behind however the process ends.
class Arena {
 public:
  Arena() = default;
  explicit Arena(size_t bytes,
                 const std::string& folder = "");  // throws std::runtime_error naming size and folder
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
