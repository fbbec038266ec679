#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "replay/replay_buffer.h"

namespace replay_bindings {

namespace py = pybind11;

// Whether each of `sizes` is from `least` to 2^40, so that a product of two is in 63 bits.
inline void check_sizes(int64_t least, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  for (const auto& [name, size] : sizes)
    if (size < least || size > int64_t{1} << 40)
      throw py::value_error(std::string(name) + " is " + std::to_string(size) + "; expected " +
                            std::to_string(least) + " to 2^40");
}

// A batch's tensors, checked once. They are views of `memory`, which stays alive as long as this: whatever is
// done to the tensors, there is memory to write to.
class Outputs {
 public:
  Outputs(const py::array& memory, int64_t rows, int64_t observation, int64_t action, int64_t next,
          const py::tuple& tensors)
      : observation_(observation), action_(action), memory_(memory), tensors_(tensors) {
    check_sizes(1, {{"rows", rows}, {"observation", observation}, {"action", action}});
    check_sizes(0, {{"next", next}});
    if (tensors.size() != 9) throw py::value_error("a batch has 9 tensors");
    const int64_t following = next > 0 ? next : observation;
    arrays::Call call;
    view_ = {rows,
             column<float>(call, 0, "observation", {rows, observation}),
             column<float>(call, 1, "action", {rows, action}),
             column<float>(call, 2, "reward", {rows}),
             column<float>(call, 3, "terminated", {rows}),
             column<float>(call, 4, "next_observation", {rows, following}),
             column<int64_t>(call, 5, "task", {rows}),
             column<float>(call, 6, "weight", {rows}),
             column<int64_t>(call, 7, "id", {rows}),
             column<float>(call, 8, "discount", {rows}),
             next};
  }

  const BatchView& view() const { return view_; }
  int64_t observation() const { return observation_; }
  int64_t action() const { return action_; }

  // Whether the tensors still are the views that they were.
  bool is_intact() const {
    for (size_t i = 0; i < columns_.size(); ++i)
      if (!is_same(tensors_[i], columns_[i])) return false;
    return true;
  }

 private:
  struct Column {
    void* data;
    py::object dtype, shape;
  };

  // Cheaper than a whole view: memory of NumPy cannot be resized, so these four tell whatever was done.
  static bool is_same(py::handle tensor, const Column& then) {
    const arrays::Torch* torch = arrays::Torch::loaded();
    try {
      return arrays::is_tensor(tensor) && arrays::address(tensor, *torch) == then.data &&
             py::getattr(tensor, torch->dtype).is(then.dtype) &&
             py::getattr(tensor, torch->shape).equal(then.shape) &&
             arrays::call(tensor, torch->is_contiguous).ptr() == Py_True;
    } catch (const py::error_already_set&) {
      return false;  // no longer a tensor with memory
    }
  }

  template <class T>
  T* column(arrays::Call& call, size_t i, const char* name, std::initializer_list<int64_t> shape) {
    T* data = call.output<T>(tensors_[i], name, shape);
    columns_.push_back({data, tensors_[i].attr("dtype"), tensors_[i].attr("shape")});
    int64_t n = 1;
    for (int64_t length : shape) n *= length;
    const auto *first = static_cast<const char*>(memory_.data()), *at = reinterpret_cast<const char*>(data);
    if (!memory_.writeable() || (memory_.flags() & py::array::c_style) == 0 || at < first ||
        at + n * static_cast<int64_t>(sizeof(T)) > first + memory_.nbytes())
      throw py::value_error(std::string(name) + " does not lie in memory; pass views of it");
    return data;
  }

  BatchView view_;
  int64_t observation_, action_;
  py::array memory_;
  py::tuple tensors_;
  std::vector<Column> columns_;
};

}  // namespace replay_bindings
