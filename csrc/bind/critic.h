#pragma once

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"

// What the bindings of the critic's kernels and of the whole update share.
namespace critic_bindings {

namespace py = pybind11;
using arrays::Call;

// Held by a call that computes products, on one matrix kernel from beginning to end.
class Products {
 public:
  Products() {
    for (int n = running_; n < 0 || !running_.compare_exchange_weak(n, n + 1);) n = running_;
  }
  ~Products() { --running_; }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Calls `change` while no products are computed. Raises RuntimeError where some are.
  template <class Change>
  static void between(Change change) {
    int none = 0;
    if (!running_.compare_exchange_strong(none, -1))
      throw std::runtime_error(
          "another thread computes products now; choose the matrix kernel before it does");
    change();
    running_ = 0;
  }

 private:
  static inline std::atomic<int> running_{0};  // -1 while the kernel is being changed
};

// Task ids of `rows` rows, each below `tasks`; none for None. A copy: they are checked first and used later,
// and another thread may write to the caller's.
inline std::vector<int64_t> task_ids(Call& call, py::handle object, int64_t rows, int64_t tasks) {
  if (object.is_none()) return {};
  const int64_t* task = call.input<int64_t>(object, "task", {rows});
  std::vector<int64_t> ids(task, task + rows);
  for (int64_t b = 0; b < rows; ++b) {
    if (ids[b] < 0 || ids[b] >= tasks) {
      throw py::value_error("task[" + std::to_string(b) + "] is " + std::to_string(ids[b]) + "; there are " +
                            std::to_string(tasks) + " tasks");
    }
  }
  return ids;
}

inline std::vector<int64_t> needed_task_ids(Call& call, py::handle object, int64_t rows, int64_t tasks) {
  if (object.is_none()) throw py::value_error("task is None; every row belongs to a task");
  return task_ids(call, object, rows, tasks);
}

inline void at_least(const std::string& name, int64_t value, int64_t least) {
  if (value < least)
    throw py::value_error(name + " is " + std::to_string(value) + "; the least is " + std::to_string(least));
}

inline arrays::Array shaped(py::handle object, const char* name, int axes) {
  const arrays::Array array = arrays::view(object, name);
  if (array.ndim != axes) {
    throw py::value_error(std::string(name) + " has shape " + arrays::shape_text(array.shape, array.ndim) +
                          "; expected " + std::to_string(axes) + " axes");
  }
  return array;
}

}  // namespace critic_bindings
