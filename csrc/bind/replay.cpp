#include <pybind11/stl.h>

#include <cstdio>
#include <deque>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arrays.h"
#include "module.h"
#include "replay/checkpoint.h"
#include "replay/replay_buffer.h"

namespace py = pybind11;

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

// A batch's tensors, checked once; kept alive as long as this.
struct Outputs {
  BatchView view;
  py::tuple tensors;

  Outputs(int64_t rows, int64_t observation, int64_t action, int64_t next, py::tuple batch)
      : tensors(std::move(batch)) {
    using arrays::output;
    if (tensors.size() != 9) throw py::value_error("a batch has 9 tensors");
    view = {rows,
            output<float>(tensors[0], "observation", {rows, observation}),
            output<float>(tensors[1], "action", {rows, action}),
            output<float>(tensors[2], "reward", {rows}),
            output<float>(tensors[3], "terminated", {rows}),
            output<float>(tensors[4], "next_observation", {rows, next > 0 ? next : observation}),
            output<int64_t>(tensors[5], "task", {rows}),
            output<float>(tensors[6], "weight", {rows}),
            output<int64_t>(tensors[7], "id", {rows}),
            output<float>(tensors[8], "discount", {rows}),
            next};
  }
};

using Segment = std::tuple<int64_t, int64_t, uint32_t>;  // first, last, checksum

// Of another content, another name: a file of a run that took another way is never taken for this one's.
std::string segment_name(const Segment& segment) {
  char hex[9];
  std::snprintf(hex, sizeof hex, "%08x", std::get<2>(segment));
  return std::to_string(std::get<0>(segment)) + "-" + std::to_string(std::get<1>(segment)) + "-" + hex;
}

class PyReplay {
 public:
  PyReplay(int64_t tasks, int64_t capacity, int64_t observation, int64_t action, int64_t frame,
           const std::string& mode, double alpha, double beta, const std::string& normalization,
           int64_t steps, float discount, uint64_t seed, const std::string& set, const std::string& folder,
           int64_t next)
      : buffer_({{tasks, capacity, observation, action, frame},
                 mode_of(mode),
                 alpha,
                 beta,
                 seed,
                 instruction_set_of(set),
                 folder,
                 normalization_of(normalization),
                 {steps, discount},
                 next}) {}

  void add(py::handle observation, py::handle action, py::handle reward, py::handle terminated,
           py::handle truncated, py::handle next_observation) {
    const auto& shape = buffer_.settings().shape;
    // One scratch per thread: adds may come from several.
    static thread_local std::vector<float> scratch[4];
    const float* o = numbers(observation, "observation", {shape.tasks, shape.observation}, scratch[0]);
    const float* a = numbers(action, "action", {shape.tasks, shape.action}, scratch[1]);
    const float* r = numbers(reward, "reward", {shape.tasks}, scratch[2]);
    const bool* d = arrays::input<bool>(terminated, "terminated", {shape.tasks});
    const bool* t = arrays::input<bool>(truncated, "truncated", {shape.tasks});
    const float* next =
        numbers(next_observation, "next_observation", {shape.tasks, shape.observation}, scratch[3]);
    const py::gil_scoped_release release;
    buffer_.add(o, a, r, d, t, next);
  }

  void sample(const std::vector<int64_t>& count, const Outputs& outputs) {
    check_counts(count, outputs.view);
    const py::gil_scoped_release release;
    buffer_.sample(count.data(), outputs.view);
  }

  void ask(const std::vector<int64_t>& count, const py::object& outputs, bool on_thread) {
    const BatchView view = outputs.cast<const Outputs&>().view;
    check_counts(count, view);
    {
      const py::gil_scoped_release release;
      buffer_.ask(count.data(), view, on_thread);
    }
    asked_ = outputs;
  }

  std::vector<int64_t> asked() {
    const py::gil_scoped_release release;
    return buffer_.asked();
  }

  int64_t update_priorities(py::handle id, py::handle priority) {
    const arrays::Array ids = arrays::view(id, "id");
    arrays::check_cpu(ids, "id");
    arrays::check_shape(ids, "id", {-1});
    static thread_local std::vector<double> scratch;
    const double* p = numbers(priority, "priority", {ids.shape[0]}, scratch);
    const auto* names = arrays::typed<int64_t>(ids, "id");
    const py::gil_scoped_release release;
    return buffer_.update_priorities(names, p, ids.shape[0]);
  }

  void set_alpha(double alpha) {
    const py::gil_scoped_release release;
    buffer_.set_alpha(alpha);
  }
  void set_beta(double beta) {
    const py::gil_scoped_release release;
    buffer_.set_beta(beta);
  }

  py::array_t<int64_t> size() const {
    const std::vector<int64_t> sizes = buffer_.size();
    return py::array_t<int64_t>(static_cast<py::ssize_t>(sizes.size()), sizes.data());
  }

  py::array_t<uint8_t> state() {
    auto bytes = std::make_unique<std::vector<uint8_t>>();
    {
      const py::gil_scoped_release release;
      const auto& shape = buffer_.settings().shape;
      int64_t rows = 0;
      for (int64_t n : buffer_.size()) rows += n;
      bytes->reserve(static_cast<size_t>(rows + 64) * (shape.observation + shape.action + 24) *
                     sizeof(float));
      buffer_.save({}, [&](const void* from, size_t n) {
        const auto* first = static_cast<const uint8_t*>(from);
        bytes->insert(bytes->end(), first, first + n);
      });
    }
    const auto n = static_cast<py::ssize_t>(bytes->size());
    const uint8_t* data = bytes->data();
    const py::capsule owner(bytes.release(),
                            [](void* held) { delete static_cast<std::vector<uint8_t>*>(held); });
    return py::array_t<uint8_t>(n, data, owner);
  }

  void load_state(py::handle state) {
    const arrays::Array array = arrays::view(state, "state");
    arrays::check_cpu(array, "state");
    arrays::check_shape(array, "state", {-1});
    const auto* bytes = arrays::typed<uint8_t>(array, "state");
    const py::gil_scoped_release release;
    buffer_.load({bytes, static_cast<size_t>(array.shape[0])}, [](const auto&) -> ReplayBuffer::Bytes {
      throw std::invalid_argument("the state names files of rows; load it from where they are");
    });
  }

  std::pair<int64_t, int64_t> settled_rows() const {
    const auto span = buffer_.settled_rows();
    return {span.first, span.last};
  }

  uint32_t save_rows(const std::string& path, int64_t first, int64_t last) const {
    const py::gil_scoped_release release;
    return write_file(path, [&](const ReplayBuffer::Sink& sink) { buffer_.save_rows(first, last, sink); });
  }

  void save(const std::string& path, const std::vector<Segment>& segments) {
    const py::gil_scoped_release release;
    std::vector<ReplayBuffer::Segment> named;
    for (const auto& [first, last, checksum] : segments) named.push_back({first, last, checksum});
    write_file(path, [&](const ReplayBuffer::Sink& sink) { buffer_.save(named, sink); });
  }

  std::vector<Segment> load(const std::string& path, const std::string& folder) {
    const MappedFile file(path);
    std::deque<MappedFile> open;
    std::vector<Segment> segments;
    const py::gil_scoped_release release;
    for (const auto& [first, last, checksum] :
         buffer_.load({file.data(), file.size()}, [&](const ReplayBuffer::Segment& segment) {
           const std::string name = segment_name({segment.first, segment.last, segment.checksum});
           const auto& rows = open.emplace_back(folder + "/" + name);
           return ReplayBuffer::Bytes{rows.data(), rows.size()};
         }))
      segments.emplace_back(first, last, checksum);
    return segments;
  }

  std::string check() const { return buffer_.check(); }

 private:
  void check_counts(const std::vector<int64_t>& count, const BatchView& view) const {
    if (static_cast<int64_t>(count.size()) != buffer_.settings().shape.tasks ||
        std::accumulate(count.begin(), count.end(), int64_t{0}) != view.rows ||
        view.next != buffer_.settings().next)
      throw py::value_error("the counts do not fit the tasks and the batch");
  }

  py::object asked_;  // the batch that is drawn ahead: goes after the buffer, which may be writing it
  ReplayBuffer buffer_;
};

}  // namespace

void bind_replay(py::module_& m) {
  py::class_<Outputs>(m, "ReplayOutputs")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, py::tuple>(), py::arg("rows"), py::arg("observation"),
           py::arg("action"), py::arg("next"), py::arg("tensors"));
  m.def("segment_name",
        [](int64_t first, int64_t last, uint32_t checksum) { return segment_name({first, last, checksum}); });
  py::class_<PyReplay>(m, "ReplayBuffer")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t, const std::string&, double, double,
                    const std::string&, int64_t, float, uint64_t, const std::string&, const std::string&,
                    int64_t>(),
           py::kw_only(), py::arg("tasks"), py::arg("capacity"), py::arg("observation"), py::arg("action"),
           py::arg("frame"), py::arg("mode"), py::arg("alpha"), py::arg("beta"), py::arg("normalization"),
           py::arg("n_step"), py::arg("discount"), py::arg("seed"), py::arg("instruction_set"),
           py::arg("folder"), py::arg("next"))
      .def("set_alpha", &PyReplay::set_alpha)
      .def("set_beta", &PyReplay::set_beta)
      .def("add", &PyReplay::add)
      .def("sample", &PyReplay::sample)
      .def("ask", &PyReplay::ask)
      .def("asked", &PyReplay::asked)
      .def("update_priorities", &PyReplay::update_priorities)
      .def("size", &PyReplay::size)
      .def("state", &PyReplay::state)
      .def("load_state", &PyReplay::load_state)
      .def("settled_rows", &PyReplay::settled_rows)
      .def("save_rows", &PyReplay::save_rows)
      .def("save", &PyReplay::save)
      .def("load", &PyReplay::load)
      .def("check", &PyReplay::check);
}
