#include <pybind11/stl.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arrays.h"
#include "function.h"
#include "module.h"
#include "replay/checked_file.h"
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

// Whether each of `sizes` is from `least` to 2^40, so that a product of two is in 63 bits.
void check_sizes(int64_t least, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
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
  static bool is_same(py::handle tensor, const arrays::Array& then) {
    try {
      const arrays::Array now = arrays::view(tensor, "tensor");
      return now.data == then.data && now.dtype == then.dtype && now.ndim == then.ndim &&
             std::equal(now.shape, now.shape + now.ndim, then.shape);
    } catch (const py::builtin_exception&) {
      return false;  // no longer an array of the kind
    } catch (const py::error_already_set&) {
      return false;
    }
  }

  template <class T>
  T* column(arrays::Call& call, size_t i, const char* name, std::initializer_list<int64_t> shape) {
    T* data = call.output<T>(tensors_[i], name, shape);
    columns_.push_back(arrays::view(tensors_[i], name));
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
  std::vector<arrays::Array> columns_;
};

using Segment = std::tuple<int64_t, int64_t, uint32_t>;  // first, last, checksum

// Of another content, another name: a file of a run that took another way is never taken for this one's.
std::string segment_name(const Segment& segment) {
  char hex[9];
  std::snprintf(hex, sizeof hex, "%08x", std::get<2>(segment));
  return std::to_string(std::get<0>(segment)) + "-" + std::to_string(std::get<1>(segment)) + "-" + hex;
}

std::vector<ReplayBuffer::Segment> named_segments(const std::vector<Segment>& segments) {
  std::vector<ReplayBuffer::Segment> named;
  for (const auto& [first, last, checksum] : segments) named.push_back({first, last, checksum});
  return named;
}

std::vector<Segment> numbers_of(const std::vector<ReplayBuffer::Segment>& segments) {
  std::vector<Segment> numbers;
  for (const auto& [first, last, checksum] : segments) numbers.emplace_back(first, last, checksum);
  return numbers;
}

using Elsewhere = std::tuple<int64_t, uint64_t, uint64_t, double>;  // tasks, seed, draws, alpha by now

const std::string& checked_path(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw std::invalid_argument("path has a zero byte in it");
  return path;
}

// The files of a folder that a checkpoint names, open as long as this.
class SegmentFiles {
 public:
  explicit SegmentFiles(const std::string& folder) : folder_(checked_path(folder)) {}
  ReplayBuffer::Segments find() {
    return [this](const ReplayBuffer::Segment& segment) -> ReplayBuffer::Bytes {
      const std::string name = segment_name({segment.first, segment.last, segment.checksum});
      const auto& rows = open_.emplace_back(folder_ + "/" + name);
      return {rows.data(), rows.size()};
    };
  }

 private:
  std::string folder_;
  std::deque<MappedFile> open_;
};

ReplayBuffer::Bytes no_segments(const ReplayBuffer::Segment&) {
  throw std::invalid_argument("the state names files of rows; load it from where they are");
}

ReplayBuffer::Bytes state_bytes(py::handle state) {
  const arrays::Array array = arrays::view(state, "state");
  arrays::check_cpu(array, "state");
  arrays::check_shape(array, "state", {-1});
  return {arrays::typed<uint8_t>(array, "state"), static_cast<size_t>(array.shape[0])};
}

class PyReplay {
 public:
  explicit PyReplay(const ReplayBuffer::Settings& settings) : buffer_(settings) {}

  static std::unique_ptr<PyReplay> make(int64_t tasks, int64_t capacity, int64_t observation, int64_t action,
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

  void add(py::handle observation, py::handle action, py::handle reward, py::handle terminated,
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

  void sample(const std::vector<int64_t>& count, const py::object& batch) {
    const BatchView view = checked(count, batch);
    const py::gil_scoped_release release;
    buffer_.sample(count.data(), view);
  }

  void prefetch(const std::vector<int64_t>& count, const py::object& batch, bool on_thread) {
    const BatchView view = checked(count, batch);
    py::object held = batch;  // at the end the one before, which may be written until then
    const py::gil_scoped_release release;
    const auto lock = one_prefetch_.lock("this replay");
    buffer_.prefetch(count.data(), view, on_thread);
    std::swap(prefetched_, held);  // pointers: needs no interpreter lock
  }

  std::vector<int64_t> prefetched() {
    const py::gil_scoped_release release;
    return buffer_.prefetched_counts();
  }

  int64_t update_priorities(py::handle id, py::handle priority) {
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

  void set_alpha(double alpha) {
    const py::gil_scoped_release release;
    buffer_.set_alpha(alpha);
  }
  void set_beta(double beta) {
    const py::gil_scoped_release release;
    buffer_.set_beta(beta);
  }

  py::array_t<int64_t> size() const {
    const std::vector<int64_t> sizes = [&] {
      const py::gil_scoped_release release;
      return buffer_.size();
    }();
    return py::array_t<int64_t>(static_cast<py::ssize_t>(sizes.size()), sizes.data());
  }

  py::array_t<uint8_t> state() {
    return bytes_of([&](const ReplayBuffer::Sink& sink) { buffer_.save({}, sink); });
  }

  void load_state(py::handle state) {
    const ReplayBuffer::Bytes bytes = state_bytes(state);
    const py::gil_scoped_release release;
    buffer_.load(bytes, no_segments);
  }

  std::pair<int64_t, int64_t> settled_rows() const {
    const py::gil_scoped_release release;
    const auto span = buffer_.settled_rows();
    return {span.first, span.last};
  }

  uint32_t save_rows(const std::string& path, int64_t first, int64_t last) const {
    const py::gil_scoped_release release;
    return write_file(checked_path(path),
                      [&](const ReplayBuffer::Sink& sink) { buffer_.save_rows(first, last, sink); });
  }

  void save(const std::string& path, const std::vector<Segment>& segments) {
    const py::gil_scoped_release release;
    const auto named = named_segments(segments);
    write_file(checked_path(path), [&](const ReplayBuffer::Sink& sink) { buffer_.save(named, sink); });
  }

  std::vector<Segment> load(const std::string& path, const std::string& folder) {
    const py::gil_scoped_release release;
    const MappedFile file(checked_path(path));
    SegmentFiles files(folder);
    return numbers_of(buffer_.load({file.data(), file.size()}, files.find()));
  }

  uint32_t save_rows_elsewhere(const std::string& path, int64_t first, int64_t last, const Elsewhere& replay,
                               const py::function& image_of) {
    Images images{*this, image_of, {}};
    const py::gil_scoped_release release;
    return write_file(checked_path(path), [&](const ReplayBuffer::Sink& sink) {
      buffer_.save_rows_elsewhere(images.of(replay), first, last, sink);
    });
  }

  void save_elsewhere(const std::string& path, const std::vector<Segment>& segments, const Elsewhere& replay,
                      const py::function& image_of, const std::vector<int64_t>& count,
                      const py::object& batch) {
    const BatchView view = of_counts(count, batch);
    Images images{*this, image_of, {}};
    const py::gil_scoped_release release;
    const auto named = named_segments(segments);
    write_file(checked_path(path), [&](const ReplayBuffer::Sink& sink) {
      buffer_.save_elsewhere(images.of(replay), named, count, view, sink);
    });
  }

  py::array_t<uint8_t> elsewhere_state(const Elsewhere& replay, const py::function& image_of,
                                       const std::vector<int64_t>& count, const py::object& batch) {
    const BatchView view = of_counts(count, batch);
    Images images{*this, image_of, {}};
    return bytes_of([&](const ReplayBuffer::Sink& sink) {
      buffer_.save_elsewhere(images.of(replay), {}, count, view, sink);
    });
  }

  // `state` is a file's path or an array of bytes.
  std::tuple<Elsewhere, std::vector<Segment>, std::vector<int64_t>> load_elsewhere(
      const py::object& state, const std::string& folder, int64_t tasks, const py::function& image_of,
      const py::function& filled) {
    Images images{*this, image_of, filled};
    ReplayBuffer::Elsewhere replay = images.of({tasks, 0, 0, 0});
    std::vector<ReplayBuffer::Segment> segments;
    if (py::isinstance<py::str>(state)) {
      const auto path = state.cast<std::string>();
      const py::gil_scoped_release release;
      const MappedFile file(checked_path(path));
      SegmentFiles files(folder);
      segments = buffer_.load_elsewhere(replay, {file.data(), file.size()}, files.find());
    } else {
      const ReplayBuffer::Bytes bytes = state_bytes(state);
      images.call.add(arrays::view(state, "state"), "state", false);
      const py::gil_scoped_release release;
      segments = buffer_.load_elsewhere(replay, bytes, no_segments);
    }
    return {{replay.tasks, replay.seed, replay.draws, replay.alpha},
            numbers_of(segments),
            buffer_.prefetched_counts()};
  }

  void take_prefetched(const py::object& batch) {
    const BatchView view = of_my_sizes(batch);
    const py::gil_scoped_release release;
    buffer_.take_prefetched(view);
  }

  std::string check() const {
    const py::gil_scoped_release release;
    return buffer_.check();
  }

 private:
  // Memory for one task's ring, given by Python.
  struct Images {
    PyReplay& replay;
    py::function image_of, filled;
    arrays::Call call{};  // what else the call is given
    py::tuple held{};     // the image at work

    ReplayBuffer::Elsewhere of(const Elsewhere& numbers) {
      const auto& [tasks, seed, draws, alpha] = numbers;
      return {tasks,
              seed,
              draws,
              alpha,
              [this](int64_t task) { return image(task); },
              [this](int64_t task) {
                const py::gil_scoped_acquire acquire;
                filled(task);
              }};
    }
    RingImage image(int64_t task) {
      const py::gil_scoped_acquire acquire;
      held = image_of(task);
      if (held.size() != 4) throw py::value_error("an image has 4 arrays");
      const auto& shape = replay.buffer_.settings().shape;
      const int64_t rows = replay.buffer_.rows(), stride = replay.buffer_.stride();
      const bool prioritized = is_prioritized(replay.buffer_.settings().mode);
      arrays::Call all = call;
      return {all.output<int64_t>(held[0], "numbers", {5}), all.output<float>(held[1], "row", {rows, stride}),
              all.output<float>(held[2], "final", {rows, shape.observation}),
              prioritized ? all.output<float>(held[3], "leaves", {rows}) : nullptr};
    }
  };

  py::array_t<uint8_t> bytes_of(const std::function<void(const ReplayBuffer::Sink&)>& save) const {
    auto bytes = std::make_unique<std::vector<uint8_t>>();
    {
      const py::gil_scoped_release release;
      const auto& shape = buffer_.settings().shape;
      int64_t rows = 0;
      for (int64_t n : buffer_.size()) rows += n;
      bytes->reserve(static_cast<size_t>(rows + 64) * (shape.observation + shape.action + 24) *
                     sizeof(float));
      save([&](const void* from, size_t n) {
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

  // The batch to write to, which must be of this replay's sizes.
  BatchView of_my_sizes(const py::object& batch) const {
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

  // The same with as many rows as are counted.
  BatchView checked(const std::vector<int64_t>& count, const py::object& batch) const {
    const int64_t tasks = buffer_.settings().shape.tasks;
    if (static_cast<int64_t>(count.size()) != tasks)
      throw py::value_error("counts has " + std::to_string(count.size()) + " entries; there are " +
                            std::to_string(tasks) + " tasks");
    return of_counts(count, batch);
  }

  // The same; no batch where nothing is counted.
  BatchView of_counts(const std::vector<int64_t>& count, const py::object& batch) const {
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

  static std::string sizes(int64_t observation, int64_t action, int64_t next) {
    return std::to_string(observation) + ", " + std::to_string(action) + ", " + std::to_string(next);
  }

  ForkMutex one_prefetch_;  // so that prefetched_ is the batch of the buffer's last prefetch
  py::object prefetched_;  // the batch of the last `prefetch`: goes after the buffer, which may be writing it
  ReplayBuffer buffer_;
};

std::unique_ptr<Outputs> make_outputs(const py::array& memory, int64_t rows, int64_t observation,
                                      int64_t action, int64_t next, const py::tuple& tensors) {
  return std::make_unique<Outputs>(memory, rows, observation, action, next, tensors);
}

std::string name_of_segment(int64_t first, int64_t last, uint32_t checksum) {
  return segment_name({first, last, checksum});
}

}  // namespace

void bind_replay(py::module_& m) {
  bind::def(m, "segment_name", &name_of_segment, "first", "last", "checksum");
  bind::Class<Outputs>(m, "ReplayOutputs")
      .init(&make_outputs, "memory", "rows", "observation", "action", "next", "tensors")
      .def("is_intact", &Outputs::is_intact);
  bind::Class<PyReplay>(m, "ReplayBuffer")
      .init(&PyReplay::make, "tasks", "capacity", "observation", "action", "frame", "mode", "alpha", "beta",
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
