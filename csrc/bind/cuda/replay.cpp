// Checks every tensor, then starts the CUDA kernels of csrc/replay on the caller's stream; nothing waits for
// the GPU.
#include <string>
#include <utility>

#include "bind/cuda/call.h"
#include "bind/function.h"
#include "bind/module.h"
#include "replay/replay_buffer.cuh"

namespace py = pybind11;
using cuda_bindings::Call;

namespace {

// A view of the replay in `memory`, which stays alive as long as this.
class PyReplayCuda {
 public:
  PyReplayCuda(py::object memory, const ReplayShapeCuda& shape) : memory_(std::move(memory)) {
    replay_ = replay_cuda(shape, Call(0).workspace(memory_, replay_cuda_bytes(shape)));
  }

  void add(py::object observation, py::object action, py::object reward, py::object terminated,
           py::object truncated, py::object next_observation, uintptr_t stream) {
    const auto& shape = replay_.shape;
    Call call(stream);
    call.view(memory_, "memory", 1);
    const TransitionsCuda t{
        call.get<float>(observation, "observation", {shape.tasks, shape.observation}),
        call.get<float>(action, "action", {shape.tasks, shape.action}),
        call.get<float>(reward, "reward", {shape.tasks}),
        reinterpret_cast<uint8_t*>(call.get<bool>(terminated, "terminated", {shape.tasks})),
        reinterpret_cast<uint8_t*>(call.get<bool>(truncated, "truncated", {shape.tasks})),
        call.get<float>(next_observation, "next_observation", {shape.tasks, shape.observation})};
    call.run([&](cudaStream_t s) { replay_add_cuda(replay_, t, s); });
  }

  void sample(py::object first, py::tuple batch, py::object workspace, uintptr_t stream) {
    const auto& shape = replay_.shape;
    Call call(stream);
    call.view(memory_, "memory", 1);
    if (batch.size() != 9) throw py::value_error("a batch has 9 tensors");
    const int64_t rows = call.view(batch[0], "observation", 2).shape[0];
    const BatchCuda b{rows,
                      call.get<int64_t>(first, "first", {shape.tasks + 1}),
                      call.get<float>(batch[0], "observation", {rows, shape.observation}),
                      call.get<float>(batch[1], "action", {rows, shape.action}),
                      call.get<float>(batch[2], "reward", {rows}),
                      call.get<float>(batch[3], "terminated", {rows}),
                      call.get<float>(batch[4], "next_observation", {rows, shape.observation}),
                      call.get<int64_t>(batch[5], "task", {rows}),
                      call.get<float>(batch[6], "weight", {rows}),
                      call.get<int64_t>(batch[7], "id", {rows}),
                      call.get<float>(batch[8], "discount", {rows})};
    void* space = call.workspace(workspace, replay_sample_workspace(replay_, rows));
    if (rows > 0) call.run([&](cudaStream_t s) { replay_sample_cuda(replay_, b, space, s); });
  }

  void update_priorities(py::object id, py::object priority, py::object workspace, uintptr_t stream) {
    if (!replay_.shape.prioritized) throw py::value_error("only prioritized modes keep priorities");
    Call call(stream);
    call.view(memory_, "memory", 1);
    const int64_t n = call.view(id, "id", 1).shape[0];
    const auto* names = call.get<int64_t>(id, "id", {n});
    const auto* p = call.get<float>(priority, "priority", {n});
    auto* space = static_cast<float*>(call.workspace(workspace, n * static_cast<int64_t>(sizeof(float))));
    if (n > 0) call.run([&](cudaStream_t s) { replay_update_cuda(replay_, names, p, n, space, s); });
  }

  // The sums, from leaves that were put into `memory`.
  void rebuild(uintptr_t stream) { rebuild_as(1, stream); }
  void set_alpha(double alpha, uintptr_t stream) {
    if (alpha == replay_.shape.alpha) return;
    if (!(alpha > 0) || replay_.shape.alpha == 0)
      throw py::value_error("alpha cannot be changed from or to 0: the priorities would be lost");
    if (replay_.shape.prioritized) rebuild_as(alpha / replay_.shape.alpha, stream);
    replay_.shape.alpha = alpha;
  }

  int64_t workspace(int64_t rows) const { return replay_sample_workspace(replay_, rows); }
  void set_beta(double beta) { replay_.shape.beta = beta; }

  // Where each part of the state that is not derived begins in `memory`, in bytes.
  py::dict offsets() const {
    const auto at = [&](const void* part) {
      return static_cast<const char*>(part) - reinterpret_cast<const char*>(replay_.begin);
    };
    py::dict parts;
    parts["begin"] = at(replay_.begin);
    parts["end"] = at(replay_.end);
    parts["open"] = at(replay_.open);
    parts["draws"] = at(replay_.draws);
    parts["report"] = at(replay_.report);
    parts["leaves"] = at(replay_.leaves);
    parts["row"] = at(replay_.row);
    parts["final"] = at(replay_.final);
    return parts;
  }
  int64_t stride() const { return replay_.stride; }
  int64_t blocks() const { return replay_.blocks; }

 private:
  void rebuild_as(double exponent, uintptr_t stream) {
    Call call(stream);
    call.view(memory_, "memory", 1);
    call.run([&](cudaStream_t s) { replay_rebuild_cuda(replay_, exponent, s); });
  }

  py::object memory_;
  ReplayCuda replay_;
};

NormalizationCuda normalization_of(const std::string& name) {
  const char* const names[] = {"batch", "task", "buffer", "none"};
  for (int i = 0; i < 4; ++i)
    if (name == names[i]) return static_cast<NormalizationCuda>(i);
  throw py::value_error("normalization '" + name + "' is none of batch, task, buffer and none");
}

// As ReplayBuffer's; so that no product of them leaves 63 bits.
void check_sizes(int64_t tasks, int64_t capacity, int64_t observation, int64_t action) {
  if (tasks < 1 || tasks >= 1 << 15) throw py::value_error("tasks must be from 1 to 32767");
  if (capacity < 2 || capacity > int64_t{1} << 28)
    throw py::value_error("capacity must be from 2 to 268435456");
  if (observation < 1 || action < 1 || observation > 1 << 17 || action > 1 << 17)
    throw py::value_error("observation and action sizes must be from 1 to 131072");
}

ReplayShapeCuda shape_of(int64_t tasks, int64_t capacity, int64_t observation, int64_t action,
                         const std::string& mode, double alpha, double beta, const std::string& normalization,
                         int64_t n_step, float discount, uint64_t seed) {
  check_sizes(tasks, capacity, observation, action);
  if (n_step < 1) throw py::value_error("n_step must be at least 1");
  const bool prioritized = mode.rfind("prioritized", 0) == 0;
  return {tasks,
          capacity,
          observation,
          action,
          prioritized,
          mode == "uniform_shared",
          mode == "prioritized_independent",
          normalization_of(normalization),
          alpha,
          beta,
          n_step,
          discount,
          seed};
}

std::unique_ptr<PyReplayCuda> make_replay(py::object memory, int64_t tasks, int64_t capacity,
                                          int64_t observation, int64_t action, const std::string& mode,
                                          double alpha, double beta, const std::string& normalization,
                                          int64_t n_step, float discount, uint64_t seed) {
  return std::make_unique<PyReplayCuda>(
      std::move(memory), shape_of(tasks, capacity, observation, action, mode, alpha, beta, normalization,
                                  n_step, discount, seed));
}

int64_t replay_bytes(int64_t tasks, int64_t capacity, int64_t observation, int64_t action, bool prioritized) {
  check_sizes(tasks, capacity, observation, action);
  ReplayShapeCuda shape{};
  shape.tasks = tasks;
  shape.capacity = capacity;
  shape.observation = observation;
  shape.action = action;
  shape.prioritized = prioritized;
  return replay_cuda_bytes(shape);
}

}  // namespace

void bind_cuda_replay(py::module_& m) {
  bind::def(m, "replay_bytes", &replay_bytes, "tasks", "capacity", "observation", "action", "prioritized");
  bind::Class<PyReplayCuda>(m, "ReplayBuffer", py::module_local())
      .init(&make_replay, "memory", "tasks", "capacity", "observation", "action", "mode", "alpha", "beta",
            "normalization", "n_step", "discount", "seed")
      .def("add", &PyReplayCuda::add, "observation", "action", "reward", "terminated", "truncated",
           "next_observation", "stream")
      .def("sample", &PyReplayCuda::sample, "first", "batch", "workspace", "stream")
      .def("sample_workspace", &PyReplayCuda::workspace, "rows")
      .def("update_priorities", &PyReplayCuda::update_priorities, "id", "priority", "workspace", "stream")
      .def("rebuild", &PyReplayCuda::rebuild, "stream")
      .def("set_alpha", &PyReplayCuda::set_alpha, "alpha", "stream")
      .def("set_beta", &PyReplayCuda::set_beta, "beta")
      .def("offsets", &PyReplayCuda::offsets)
      .property("stride", &PyReplayCuda::stride)
      .property("blocks", &PyReplayCuda::blocks);
}
