// Checks everything that a whole SAC update is given, then runs it without the interpreter lock.
#include "critic/sac_update.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "critic.h"
#include "function.h"
#include "module.h"

namespace py = pybind11;
using namespace critic_bindings;

namespace {

// What a dictionary that Python gives has under `name`.
template <class T>
T entry(const py::dict& values, const char* name) {
  if (!values.contains(name)) throw py::value_error(std::string("no '") + name + "' is given");
  return bind::As<T>::read(values[name], {name});
}

SacSettings settings_of(const py::dict& values) {
  const auto get = [&](const char* name) { return entry<double>(values, name); };
  return {get("polyak"),     get("actor_lr"),    get("critic_lr"),      get("temperature_lr"),
          get("beta1"),      get("beta2"),       get("adam_eps"),       get("weight_decay"),
          get("actor_clip"), get("critic_clip"), get("target_entropy"), get("log_std_min"),
          get("log_std_max")};
}

constexpr int64_t kMostUnits = int64_t{1} << 20, kMostFloats = int64_t{1} << 40;

MultiHeadShape shape_of(const py::dict& values) {
  const auto get = [&](const char* name) {
    const auto value = entry<int64_t>(values, name);
    at_least(name, value, 1);
    if (value > kMostUnits)
      throw py::value_error(std::string(name) + " is " + std::to_string(value) + "; the most is " +
                            std::to_string(kMostUnits));
    return value;
  };
  MultiHeadShape shape{get("critics"),
                       get("inputs"),
                       get("outputs"),
                       get("tasks"),
                       get("width"),
                       get("depth"),
                       entry<std::vector<int64_t>>(values, "start")};
  for (size_t i = 0; i < shape.start.size(); ++i) {
    const std::string name = "start[" + std::to_string(i) + "]";
    at_least(name, shape.start[i], 0);
    if (shape.start[i] > kMostFloats)
      throw py::value_error(name + " is " + std::to_string(shape.start[i]) + "; the most is 2^40");
  }
  if (static_cast<int64_t>(shape.start.size()) != 3 + 2 * shape.depth) {
    throw py::value_error("start has " + std::to_string(shape.start.size()) + " entries; expected " +
                          std::to_string(3 + 2 * shape.depth));
  }
  const double widest =
      static_cast<double>(std::max({shape.tasks * shape.outputs, shape.inputs, shape.width}));
  if (static_cast<double>(shape.critics * shape.width) * widest * static_cast<double>(shape.depth) >
      static_cast<double>(kMostFloats))
    throw py::value_error(
        "a network of critics, width, depth, tasks, inputs and outputs like these has more "
        "than 2^40 parameters");
  return shape;
}

// The floats that a flat vector with this shape holds at least.
int64_t end_of(const MultiHeadShape& s) {
  const int64_t units = s.critics * s.width, heads = s.critics * s.tasks * s.outputs;
  int64_t end = std::max({s.start[0] + units * s.tasks, s.start[1] + heads * s.width, s.start[2] + heads});
  for (int64_t layer = 0; layer < s.depth; ++layer) {
    end = std::max(end, s.start[3 + layer] + units * (layer ? s.width : s.inputs));
    end = std::max(end, s.start[3 + s.depth + layer] + units);
  }
  return end;
}

// What the parts of an optimiser's state are called.
struct AdamNames {
  const char *value, *gradient, *mean, *square, *step;
};
constexpr AdamNames kActor{"actor", "actor's gradient", "actor's mean", "actor's square", "actor's step"};
constexpr AdamNames kCritic{"critic", "critic's gradient", "critic's mean", "critic's square",
                            "critic's step"};
constexpr AdamNames kLogTemperature{"log_temperature", "log_temperature's gradient", "log_temperature's mean",
                                    "log_temperature's square", "log_temperature's step"};

AdamState adam_of(Call& call, const py::tuple& state, int64_t size, const AdamNames& names) {
  if (state.size() != 5) throw py::value_error(std::string(names.value) + " has not 5 entries");
  const int64_t n = shaped(state[0], names.value, 1).shape[0];
  if (n < size) {
    throw py::value_error(std::string(names.value) + " has " + std::to_string(n) + " numbers; expected " +
                          std::to_string(size));
  }
  const auto steps = bind::As<int64_t>::read(state[4], {names.step});
  if (steps < 1)
    throw py::value_error(std::string(names.step) + " is " + std::to_string(steps) + "; the first step is 1");
  return {call.output<float>(state[0], names.value, {n}),
          call.output<float>(state[1], names.gradient, {n}),
          call.output<float>(state[2], names.mean, {n}),
          call.output<float>(state[3], names.square, {n}),
          n,
          steps};
}

std::vector<double> sac_update(SacUpdate& self, const py::tuple& actor, const py::tuple& critic,
                               py::object target, const py::tuple& log_temperature, py::object observation,
                               py::object action, py::object reward, py::object terminated,
                               py::object next_observation, py::object task, py::object weight,
                               py::object discount, py::object next_noise, py::object noise,
                               py::object priority) {
  const MultiHeadShape &a = self.actor_shape(), &c = self.critic_shape();
  const int64_t actions = a.outputs / 2, rows = shaped(reward, "reward", 1).shape[0];
  if (rows == 0) throw py::value_error("the batch has no rows");
  Call call;
  const AdamState actor_state = adam_of(call, actor, end_of(a), kActor),
                  critic_state = adam_of(call, critic, end_of(c), kCritic),
                  temperature = adam_of(call, log_temperature, a.tasks, kLogTemperature);
  float* slow = call.output<float>(target, "target", {critic_state.size});
  const std::vector<int64_t> ids = needed_task_ids(call, task, rows, a.tasks);
  const SacBatch batch{rows,
                       call.input<float>(observation, "observation", {rows, a.inputs}),
                       call.input<float>(action, "action", {rows, actions}),
                       call.input<float>(reward, "reward", {rows}),
                       call.input<float>(terminated, "terminated", {rows}),
                       call.input<float>(next_observation, "next_observation", {rows, a.inputs}),
                       call.input<float>(weight, "weight", {rows}),
                       call.input<float>(discount, "discount", {rows}),
                       ids.data(),
                       call.input<float>(next_noise, "next_noise", {rows, actions}),
                       call.input<float>(noise, "noise", {rows, actions})};
  float* errors = call.output<float>(priority, "priority", {rows});
  const Products products;
  py::gil_scoped_release unlocked;
  const SacMetrics m = self.run(actor_state, critic_state, slow, temperature, batch, errors);
  return {m.critic_loss, m.actor_loss,          m.temperature_loss,
          m.q_mean,      m.actor_gradient_norm, m.critic_gradient_norm};
}

void sac_act(SacUpdate& self, py::object actor, py::object observation, py::object task, py::object noise,
             py::object action) {
  const MultiHeadShape& a = self.actor_shape();
  const arrays::Array flat = shaped(actor, "actor", 1);
  if (flat.shape[0] < end_of(a)) throw py::value_error("actor is shorter than its shape");
  Call call;
  const float* value = call.input<float>(actor, "actor", {flat.shape[0]});
  const int64_t rows = shaped(observation, "observation", 2).shape[0];
  const float* seen = call.input<float>(observation, "observation", {rows, a.inputs});
  const std::vector<int64_t> ids = needed_task_ids(call, task, rows, a.tasks);
  const float* draws = noise.is_none() ? nullptr : call.input<float>(noise, "noise", {rows, a.outputs / 2});
  float* chosen = call.output<float>(action, "action", {rows, a.outputs / 2});
  const Products products;
  py::gil_scoped_release unlocked;
  self.act(value, rows, seen, ids.data(), draws, chosen);
}

std::unique_ptr<SacUpdate> make_update(const py::dict& settings, const py::dict& actor,
                                       const py::dict& critic, int threads) {
  MultiHeadShape a = shape_of(actor), c = shape_of(critic);
  if (a.critics != 1 || c.outputs != 1 || a.tasks != c.tasks || a.outputs % 2 ||
      c.inputs != a.inputs + a.outputs / 2) {
    throw py::value_error("the shapes of actor and critic do not belong together");
  }
  at_least("threads", threads, 1);
  const auto cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (threads > std::max(cpus, 1))
    throw py::value_error("threads is " + std::to_string(threads) + "; this process may use " +
                          std::to_string(std::max(cpus, 1)) + " CPUs: lower run.threads");
  return std::make_unique<SacUpdate>(settings_of(settings), std::move(a), std::move(c), threads);
}

}  // namespace

void bind_sac_update(py::module_& m) {
  bind::Class<SacUpdate>(m, "SacUpdate")
      .init(&make_update, "settings", "actor", "critic", "threads")
      .def("__call__", &sac_update, "actor", "critic", "target", "log_temperature", "observation", "action",
           "reward", "terminated", "next_observation", "task", "weight", "discount", "next_noise", "noise",
           "priority")
      .def("act", &sac_act, "actor", "observation", "task", "noise", "action");
}
