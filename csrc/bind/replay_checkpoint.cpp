// Writes and reads the replay's checkpoints, those of a replay that lies elsewhere included, without the
// interpreter lock.
#include <pybind11/numpy.h>

#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "replay.h"
#include "replay/checked_file.h"

namespace replay_bindings {

std::string segment_name(int64_t first, int64_t last, uint32_t checksum) {
  char hex[9];
  std::snprintf(hex, sizeof hex, "%08x", checksum);
  return std::to_string(first) + "-" + std::to_string(last) + "-" + hex;
}

namespace {

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
      const std::string name = segment_name(segment.first, segment.last, segment.checksum);
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

// Memory for one task's ring, given by Python.
struct Images {
  const ReplayBuffer& buffer;
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
    const auto& shape = buffer.settings().shape;
    const int64_t rows = buffer.rows(), stride = buffer.stride();
    const bool prioritized = is_prioritized(buffer.settings().mode);
    arrays::Call all = call;
    return {all.output<int64_t>(held[0], "numbers", {5}), all.output<float>(held[1], "row", {rows, stride}),
            all.output<float>(held[2], "final", {rows, shape.observation}),
            prioritized ? all.output<float>(held[3], "leaves", {rows}) : nullptr};
  }
};

}  // namespace

py::array_t<uint8_t> PyReplay::state() {
  return bytes_of([&](const ReplayBuffer::Sink& sink) { buffer_.save({}, sink); });
}

void PyReplay::load_state(py::handle state) {
  const ReplayBuffer::Bytes bytes = state_bytes(state);
  const py::gil_scoped_release release;
  buffer_.load(bytes, no_segments);
}

std::pair<int64_t, int64_t> PyReplay::settled_rows() const {
  const py::gil_scoped_release release;
  const auto span = buffer_.settled_rows();
  return {span.first, span.last};
}

uint32_t PyReplay::save_rows(const std::string& path, int64_t first, int64_t last) const {
  const py::gil_scoped_release release;
  return write_file(checked_path(path),
                    [&](const ReplayBuffer::Sink& sink) { buffer_.save_rows(first, last, sink); });
}

void PyReplay::save(const std::string& path, const std::vector<Segment>& segments) {
  const py::gil_scoped_release release;
  const auto named = named_segments(segments);
  write_file(checked_path(path), [&](const ReplayBuffer::Sink& sink) { buffer_.save(named, sink); });
}

std::vector<Segment> PyReplay::load(const std::string& path, const std::string& folder) {
  const py::gil_scoped_release release;
  const MappedFile file(checked_path(path));
  SegmentFiles files(folder);
  return numbers_of(buffer_.load({file.data(), file.size()}, files.find()));
}

uint32_t PyReplay::save_rows_elsewhere(const std::string& path, int64_t first, int64_t last,
                                       const Elsewhere& replay, const py::function& image_of) {
  Images images{buffer_, image_of, {}};
  const py::gil_scoped_release release;
  return write_file(checked_path(path), [&](const ReplayBuffer::Sink& sink) {
    buffer_.save_rows_elsewhere(images.of(replay), first, last, sink);
  });
}

void PyReplay::save_elsewhere(const std::string& path, const std::vector<Segment>& segments,
                              const Elsewhere& replay, const py::function& image_of,
                              const std::vector<int64_t>& count, const py::object& batch) {
  const BatchView view = of_counts(count, batch);
  Images images{buffer_, image_of, {}};
  const py::gil_scoped_release release;
  const auto named = named_segments(segments);
  write_file(checked_path(path), [&](const ReplayBuffer::Sink& sink) {
    buffer_.save_elsewhere(images.of(replay), named, count, view, sink);
  });
}

py::array_t<uint8_t> PyReplay::elsewhere_state(const Elsewhere& replay, const py::function& image_of,
                                               const std::vector<int64_t>& count, const py::object& batch) {
  const BatchView view = of_counts(count, batch);
  Images images{buffer_, image_of, {}};
  return bytes_of([&](const ReplayBuffer::Sink& sink) {
    buffer_.save_elsewhere(images.of(replay), {}, count, view, sink);
  });
}

std::tuple<Elsewhere, std::vector<Segment>, std::vector<int64_t>> PyReplay::load_elsewhere(
    const py::object& state, const std::string& folder, int64_t tasks, const py::function& image_of,
    const py::function& filled) {
  Images images{buffer_, image_of, filled};
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

void PyReplay::take_prefetched(const py::object& batch) {
  const BatchView view = of_my_sizes(batch);
  const py::gil_scoped_release release;
  buffer_.take_prefetched(view);
}

py::array_t<uint8_t> PyReplay::bytes_of(const std::function<void(const ReplayBuffer::Sink&)>& save) const {
  auto bytes = std::make_unique<std::vector<uint8_t>>();
  {
    const py::gil_scoped_release release;
    const auto& shape = buffer_.settings().shape;
    int64_t rows = 0;
    for (int64_t n : buffer_.size()) rows += n;
    bytes->reserve(static_cast<size_t>(rows + 64) * (shape.observation + shape.action + 24) * sizeof(float));
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

}  // namespace replay_bindings
