// Checks every array, then fills and samples the replay without the interpreter lock.
#include "replay.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "function.h"
#include "module.h"
#include "replay_outputs.h"

namespace py = pybind11;

namespace replay_bindings {

namespace {

template <class T>
T choose(const char* what, const std::string& name,
         std::initializer_list<std::pair<const char*, T>> choices) {
  std::string names;
  for (const auto& [known, value] : choices) {
    if (name == known) return value;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw py::value_error("no " + std::string(what) + " '" + name + "'; there are " + names);
}

Mode mode_of(const std::string& name) {
  return choose<Mode>("mode", name,
                      {{"uniform", Mode::uniform},
                       {"uniform_shared", Mode::uniform_shared},
                       {"prioritized", Mode::prioritized},
                       {"prioritized_independent", Mode::prioritized_independent}});
}

Normalization normalization_of(const std::string& name) {
  return choose<Normalization>("weight normalization", name,
                               {{"batch", Normalization::batch},
                                {"task", Normalization::task},
                                {"buffer", Normalization::buffer},
                                {"none", Normalization::none}});
}

InstructionSet instruction_set_of(const std::string& name) {
  if (name == "auto") return best_instruction_set();
  return choose<InstructionSet>("instruction set", name,
                                {{"portable", InstructionSet::portable},
                                 {"avx2", InstructionSet::avx2},
                                 {"avx512", InstructionSet::avx512}});
}

// Numbers of either precision as the precision kernels take; `scratch` holds them where they had to be
// converted.
template <class T>
const T* numbers(const arrays::Array& array, const char* name, int64_t n, std::vector<T>& scratch) {
  if (array.dtype == arrays::DtypeOf<T>::value) return static_cast<const T*>(array.data);
  scratch.resize(n);
  if (array.dtype == arrays::Dtype::f32)
    std::copy_n(static_cast<const float*>(array.data), n, scratch.data());
  else
    std::copy_n(arrays::typed<double>(array, name), n, scratch.data());
  return scratch.data();
}

template <class T>
const T* numbers(py::handle object, const char* name, std::initializer_list<int64_t> shape,
                 std::vector<T>& scratch) {
  const arrays::Array array = arrays::view(object, name);
  arrays::check_cpu(array, name);
  arrays::check_shape(array, name, shape);
  int64_t n = 1;
  for (int axis = 0; axis < array.ndim; ++axis) n *= array.shape[axis];
  return numbers<T>(array, name, n, scratch);
}

std::string sizes(int64_t observation, int64_t action, int64_t next) {
  return std::to_string(observation) + ", " + std::to_string(action) + ", " + std::to_string(next);
}

}  // namespace

void PyReplay::add(py::handle observation, py::handle action, py::handle reward, py::handle terminated,
                   py::handle truncated, py::handle next_observation) {
  const auto& shape = buffer_.settings().shape;
  // One scratch per thread: adds may come from several.
  static thread_local std::vector<float> scratch[4];
  const float* o = numbers(observation, "observation", {shape.tasks, shape.observation}, scratch[0]);
  const float* a = numbers(action, "action", {shape.tasks, shape.action}, scratch[1]);
  const float* r = numbers(reward, "reward", {shape.tasks}, scratch[2]);
  const bool* d = arrays::flags(terminated, "terminated", shape.tasks);
  const bool* t = arrays::flags(truncated, "truncated", shape.tasks);
  const float* next =
      numbers(next_observation, "next_observation", {shape.tasks, shape.observation}, scratch[3]);
  const py::gil_scoped_release release;
  buffer_.add(o, a, r, d, t, next);
}

void PyReplay::sample(const std::vector<int64_t>& count, const py::object& batch) {
  const BatchView view = checked(count, batch);
  const py::gil_scoped_release release;
  buffer_.sample(count.data(), view);
}

void PyReplay::prefetch(const std::vector<int64_t>& count, const py::object& batch, bool on_thread) {
  const BatchView view = checked(count, batch);
  py::object held = batch;  // at the end the one before, which may be written until then
  const py::gil_scoped_release release;
  const auto lock = one_prefetch_.lock("this replay");
  buffer_.prefetch(count.data(), view, on_thread);
  std::swap(prefetched_, held);  // pointers: needs no interpreter lock
}

std::vector<int64_t> PyReplay::prefetched() {
  const py::gil_scoped_release release;
  return buffer_.prefetched_counts();
}

int64_t PyReplay::update_priorities(py::handle id, py::handle priority) {
  const arrays::Array ids = arrays::view(id, "id");
  arrays::check_cpu(ids, "id");
  arrays::check_shape(ids, "id", {-1});
  // Of the caller's own: they are checked first and used later, and another thread may write to theirs.
  static thread_local std::vector<int64_t> names;
  static thread_local std::vector<double> scratch;
  const auto* given = arrays::typed<int64_t>(ids, "id");
  names.assign(given, given + ids.shape[0]);
  const double* p = numbers(priority, "priority", {ids.shape[0]}, scratch);
  const py::gil_scoped_release release;
  return buffer_.update_priorities(names.data(), p, ids.shape[0]);
}

void PyReplay::set_alpha(double alpha) {
  const py::gil_scoped_release release;
  buffer_.set_alpha(alpha);
}

void PyReplay::set_beta(double beta) {
  const py::gil_scoped_release release;
  buffer_.set_beta(beta);
}

py::array_t<int64_t> PyReplay::size() const {
  const std::vector<int64_t> sizes = [&] {
    const py::gil_scoped_release release;
    return buffer_.size();
  }();
  return py::array_t<int64_t>(static_cast<py::ssize_t>(sizes.size()), sizes.data());
}

std::string PyReplay::check() const {
  const py::gil_scoped_release release;
  return buffer_.check();
}

BatchView PyReplay::of_my_sizes(const py::object& batch) const {
  const auto& outputs = bind::made<Outputs>(batch, "batch");
  const auto& settings = buffer_.settings();
  const BatchView& view = outputs.view();
  if (outputs.observation() != settings.shape.observation || outputs.action() != settings.shape.action ||
      view.next != settings.next)
    throw py::value_error("batch has observation, action and next sizes " +
                          sizes(outputs.observation(), outputs.action(), view.next) + "; this replay has " +
                          sizes(settings.shape.observation, settings.shape.action, settings.next));
  return view;
}

BatchView PyReplay::checked(const std::vector<int64_t>& count, const py::object& batch) const {
  const int64_t tasks = buffer_.settings().shape.tasks;
  if (static_cast<int64_t>(count.size()) != tasks)
    throw py::value_error("counts has " + std::to_string(count.size()) + " entries; there are " +
                          std::to_string(tasks) + " tasks");
  return of_counts(count, batch);
}

BatchView PyReplay::of_counts(const std::vector<int64_t>& count, const py::object& batch) const {
  if (count.empty()) return {};
  const BatchView view = of_my_sizes(batch);
  int64_t left = view.rows;
  for (int64_t n : count) {
    if (n < 0 || n > left) left = -1;
    if (left < 0) break;
    left -= n;
  }
  if (left != 0)
    throw py::value_error("counts do not add up to the batch's " + std::to_string(view.rows) + " rows");
  return view;
}

namespace {

std::unique_ptr<PyReplay> make_replay(int64_t tasks, int64_t capacity, int64_t observation, int64_t action,
                                      int64_t frame, const std::string& mode, double alpha, double beta,
                                      const std::string& normalization, int64_t steps, float discount,
                                      uint64_t seed, const std::string& set, const std::string& folder,
                                      int64_t next) {
  return std::make_unique<PyReplay>(ReplayBuffer::Settings{{tasks, capacity, observation, action, frame},
                                                           mode_of(mode),
                                                           alpha,
                                                           beta,
                                                           seed,
                                                           instruction_set_of(set),
                                                           folder,
                                                           normalization_of(normalization),
                                                           {steps, discount},
                                                           next});
}

std::unique_ptr<Outputs> make_outputs(const py::array& memory, int64_t rows, int64_t observation,
                                      int64_t action, int64_t next, const py::tuple& tensors) {
  return std::make_unique<Outputs>(memory, rows, observation, action, next, tensors);
}

}  // namespace

}  // namespace replay_bindings

void bind_replay(py::module_& m) {
  using namespace replay_bindings;
  bind::def(m, "segment_name", &segment_name, "first", "last", "checksum");
  bind::Class<Outputs>(m, "ReplayOutputs")
      .init(&make_outputs, "memory", "rows", "observation", "action", "next", "tensors")
      .def("is_intact", &Outputs::is_intact);
  bind::Class<PyReplay>(m, "ReplayBuffer")
      .init(&make_replay, "tasks", "capacity", "observation", "action", "frame", "mode", "alpha", "beta",
            "normalization", "n_step", "discount", "seed", "instruction_set", "folder", "next")
      .def("set_alpha", &PyReplay::set_alpha, "alpha")
      .def("set_beta", &PyReplay::set_beta, "beta")
      .def("add", &PyReplay::add, "observation", "action", "reward", "terminated", "truncated",
           "next_observation")
      .def("sample", &PyReplay::sample, "counts", "batch")
      .def("prefetch", &PyReplay::prefetch, "counts", "batch", "on_thread")
      .def("prefetched", &PyReplay::prefetched)
      .def("update_priorities", &PyReplay::update_priorities, "id", "priority")
      .def("size", &PyReplay::size)
      .def("state", &PyReplay::state)
      .def("load_state", &PyReplay::load_state, "state")
      .def("settled_rows", &PyReplay::settled_rows)
      .def("save_rows", &PyReplay::save_rows, "path", "first", "last")
      .def("save", &PyReplay::save, "path", "segments")
      .def("load", &PyReplay::load, "path", "folder")
      .def("save_rows_elsewhere", &PyReplay::save_rows_elsewhere, "path", "first", "last", "replay",
           "image_of")
      .def("save_elsewhere", &PyReplay::save_elsewhere, "path", "segments", "replay", "image_of", "counts",
           "batch")
      .def("elsewhere_state", &PyReplay::elsewhere_state, "replay", "image_of", "counts", "batch")
      .def("load_elsewhere", &PyReplay::load_elsewhere, "state", "folder", "tasks", "image_of", "filled")
      .def("take_prefetched", &PyReplay::take_prefetched, "batch")
      .def("check", &PyReplay::check);
}
