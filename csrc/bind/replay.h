#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arrays.h"
#include "replay/replay_buffer.h"

// The replay as Python sees it: replay.cpp has what fills and samples it, replay_checkpoint.cpp what writes
// and reads checkpoints.
namespace replay_bindings {

namespace py = pybind11;

using Segment = std::tuple<int64_t, int64_t, uint32_t>;             // first, last, checksum
using Elsewhere = std::tuple<int64_t, uint64_t, uint64_t, double>;  // tasks, seed, draws, alpha by now

// Of another content, another name: a file of a run that took another way is never taken for this one's.
std::string segment_name(int64_t first, int64_t last, uint32_t checksum);

class PyReplay {
 public:
  explicit PyReplay(const ReplayBuffer::Settings& settings) : buffer_(settings) {}

  void add(py::handle observation, py::handle action, py::handle reward, py::handle terminated,
           py::handle truncated, py::handle next_observation);
  void sample(const std::vector<int64_t>& count, const py::object& batch);
  void prefetch(const std::vector<int64_t>& count, const py::object& batch, bool on_thread);
  std::vector<int64_t> prefetched();
  int64_t update_priorities(py::handle id, py::handle priority);
  void set_alpha(double alpha);
  void set_beta(double beta);
  py::array_t<int64_t> size() const;
  std::string check() const;

  py::array_t<uint8_t> state();
  void load_state(py::handle state);
  std::pair<int64_t, int64_t> settled_rows() const;
  uint32_t save_rows(const std::string& path, int64_t first, int64_t last) const;
  void save(const std::string& path, const std::vector<Segment>& segments);
  std::vector<Segment> load(const std::string& path, const std::string& folder);
  uint32_t save_rows_elsewhere(const std::string& path, int64_t first, int64_t last, const Elsewhere& replay,
                               const py::function& image_of);
  void save_elsewhere(const std::string& path, const std::vector<Segment>& segments, const Elsewhere& replay,
                      const py::function& image_of, const std::vector<int64_t>& count,
                      const py::object& batch);
  py::array_t<uint8_t> elsewhere_state(const Elsewhere& replay, const py::function& image_of,
                                       const std::vector<int64_t>& count, const py::object& batch);
  // `state` is a file's path or an array of bytes.
  std::tuple<Elsewhere, std::vector<Segment>, std::vector<int64_t>> load_elsewhere(
      const py::object& state, const std::string& folder, int64_t tasks, const py::function& image_of,
      const py::function& filled);
  void take_prefetched(const py::object& batch);

 private:
  py::array_t<uint8_t> bytes_of(const std::function<void(const ReplayBuffer::Sink&)>& save) const;
  // The batch to write to, which must be of this replay's sizes.
  BatchView of_my_sizes(const py::object& batch) const;
  // The same with as many rows as are counted.
  BatchView checked(const std::vector<int64_t>& count, const py::object& batch) const;
  // The same; no batch where nothing is counted.
  BatchView of_counts(const std::vector<int64_t>& count, const py::object& batch) const;

  ForkMutex one_prefetch_;  // so that prefetched_ is the batch of the buffer's last prefetch
  py::object prefetched_;  // the batch of the last `prefetch`: goes after the buffer, which may be writing it
  ReplayBuffer buffer_;
};

}  // namespace replay_bindings
