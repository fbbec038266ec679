// Checks every array and every task id, then calls the critic's kernels without the interpreter lock.
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arrays.h"
#include "critic/adam_polyak.h"
#include "critic/ensemble_linear.h"
#include "critic/head_gather.h"
#include "critic/matmul.h"
#include "critic/sac_update.h"
#include "critic/td_target.h"
#include "function.h"
#include "module.h"

namespace py = pybind11;
using arrays::Call;

namespace {

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
std::vector<int64_t> task_ids(Call& call, py::handle object, int64_t rows, int64_t tasks) {
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

std::vector<int64_t> needed_task_ids(Call& call, py::handle object, int64_t rows, int64_t tasks) {
  if (object.is_none()) throw py::value_error("task is None; every row belongs to a task");
  return task_ids(call, object, rows, tasks);
}

void at_least(const std::string& name, int64_t value, int64_t least) {
  if (value < least)
    throw py::value_error(name + " is " + std::to_string(value) + "; the least is " + std::to_string(least));
}

// Sizes that are given, not taken from an array: so that no product of them leaves 63 bits.
void check_floats(std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  double floats = 1;
  for (const auto& [name, size] : sizes) {
    at_least(name, size, 0);
    floats *= std::max(1.0, static_cast<double>(size));
  }
  if (floats > static_cast<double>(int64_t{1} << 46))
    throw py::value_error("sizes like these make more than 2^46 floats");
}

arrays::Array shaped(py::handle object, const char* name, int axes) {
  const arrays::Array array = arrays::view(object, name);
  if (array.ndim != axes) {
    throw py::value_error(std::string(name) + " has shape " + arrays::shape_text(array.shape, array.ndim) +
                          "; expected " + std::to_string(axes) + " axes");
  }
  return array;
}

EnsembleLinear layer_of(py::handle x, py::handle kernel, py::handle task_row) {
  const arrays::Array k = shaped(kernel, "kernel", 3), in = arrays::view(x, "x");
  const bool shared = in.ndim == 2;
  if (in.ndim < 2) throw py::value_error("x has fewer than 2 axes; expected [B, D] or [E, B, D]");
  const int64_t tasks = task_row.is_none() ? 0 : shaped(task_row, "task_row", 3).shape[1];
  at_least("kernel's inputs", k.shape[1], 1);
  at_least("kernel's outputs", k.shape[2], 1);
  return {k.shape[0], in.shape[in.ndim - 2], k.shape[1], k.shape[2], tasks, shared};
}

const float* layer_input(Call& call, const EnsembleLinear& l, py::handle x) {
  return l.shared ? call.input<float>(x, "x", {l.rows, l.inputs})
                  : call.input<float>(x, "x", {l.critics, l.rows, l.inputs});
}

// The task rows of a layer and the tasks of its rows.
struct TaskPart {
  const float* rows = nullptr;
  std::vector<int64_t> ids;
  const int64_t* task() const { return rows == nullptr ? nullptr : ids.data(); }
};

TaskPart task_part(Call& call, const EnsembleLinear& l, py::handle task_row, py::handle task) {
  if (task_row.is_none() != task.is_none())
    throw py::value_error("task_row and task go together; one is missing");
  if (task_row.is_none()) return {};
  return {call.input<float>(task_row, "task_row", {l.critics, l.tasks, l.outputs}),
          task_ids(call, task, l.rows, l.tasks)};
}

void linear_forward(py::object x, py::object kernel, py::object bias, py::object task_row, py::object task,
                    py::object y, py::object workspace) {
  Call call;
  const EnsembleLinear l = layer_of(x, kernel, task_row);
  const float* in = layer_input(call, l, x);
  const float* weights = call.input<float>(kernel, "kernel", {l.critics, l.inputs, l.outputs});
  const float* shift = call.input<float>(bias, "bias", {l.critics, l.outputs});
  const TaskPart tasks = task_part(call, l, task_row, task);
  float* out = call.output<float>(y, "y", {l.critics, l.rows, l.outputs});
  const Products products;
  float* space = call.output<float>(workspace, "workspace", {ensemble_linear_workspace(l)});
  py::gil_scoped_release unlocked;
  ensemble_linear_forward(l, in, weights, shift, tasks.rows, tasks.task(), out, space);
}

void linear_backward(py::object x, py::object kernel, py::object task_row, py::object task, py::object y,
                     py::object dy, py::object dz, py::object dx, py::object dkernel, py::object dbias,
                     py::object dtask_row, py::object workspace) {
  Call call;
  const EnsembleLinear l = layer_of(x, kernel, task_row);
  const float* in = layer_input(call, l, x);
  const float* weights = call.input<float>(kernel, "kernel", {l.critics, l.inputs, l.outputs});
  const TaskPart tasks = task_part(call, l, task_row, task);
  const float* after = call.input<float>(y, "y", {l.critics, l.rows, l.outputs});
  const float* gradient = call.input<float>(dy, "dy", {l.critics, l.rows, l.outputs});
  float* before = call.output<float>(dz, "dz", {l.critics, l.rows, l.outputs}, "dy");
  float* din = call.output_or_null<float>(dx, "dx", {l.critics, l.rows, l.inputs});
  float* dweights = call.output_or_null<float>(dkernel, "dkernel", {l.critics, l.inputs, l.outputs});
  float* dshift = call.output_or_null<float>(dbias, "dbias", {l.critics, l.outputs});
  float* drows = call.output_or_null<float>(dtask_row, "dtask_row", {l.critics, l.tasks, l.outputs});
  const Products products;
  float* space = call.output<float>(workspace, "workspace", {ensemble_linear_workspace(l)});
  if (dweights && (!dshift || (l.tasks && !drows)))
    throw py::value_error("dkernel needs dbias and dtask_row");
  py::gil_scoped_release unlocked;
  ensemble_linear_mask(l, after, gradient, before);
  if (dweights) ensemble_linear_weight_gradients(l, in, tasks.task(), before, dweights, dshift, drows, space);
  if (din) ensemble_linear_input_gradient(l, weights, before, din, space);
}

HeadGather head_of(py::handle x, py::handle kernel) {
  const arrays::Array k = shaped(kernel, "kernel", 4), in = shaped(x, "x", 3);
  at_least("kernel's width", k.shape[2], 1);
  at_least("kernel's outputs", k.shape[3], 1);
  return {k.shape[0], in.shape[1], k.shape[2], k.shape[3], k.shape[1], k.shape[2]};
}

void head_forward(py::object x, py::object kernel, py::object bias, py::object task, py::object y,
                  py::object workspace) {
  Call call;
  const HeadGather h = head_of(x, kernel);
  const float* in = call.input<float>(x, "x", {h.critics, h.rows, h.width});
  const float* weights = call.input<float>(kernel, "kernel", {h.critics, h.tasks, h.width, h.outputs});
  const float* shift = call.input<float>(bias, "bias", {h.critics, h.tasks, h.outputs});
  const std::vector<int64_t> ids = needed_task_ids(call, task, h.rows, h.tasks);
  float* out = call.output<float>(y, "y", {h.critics, h.rows, h.outputs});
  const Products products;
  float* space = call.output<float>(workspace, "workspace", {head_gather_workspace(h)});
  py::gil_scoped_release unlocked;
  head_gather_forward(h, in, weights, shift, ids.data(), out, space);
}

void head_backward(py::object x, py::object kernel, py::object task, py::object dy, py::object dx,
                   py::object dkernel, py::object dbias, py::object workspace) {
  Call call;
  const HeadGather h = head_of(x, kernel);
  const float* in = call.input<float>(x, "x", {h.critics, h.rows, h.width});
  const float* weights = call.input<float>(kernel, "kernel", {h.critics, h.tasks, h.width, h.outputs});
  const std::vector<int64_t> ids = needed_task_ids(call, task, h.rows, h.tasks);
  const float* gradient = call.input<float>(dy, "dy", {h.critics, h.rows, h.outputs});
  float* din = call.output_or_null<float>(dx, "dx", {h.critics, h.rows, h.width});
  float* dweights = call.output_or_null<float>(dkernel, "dkernel", {h.critics, h.tasks, h.width, h.outputs});
  float* dshift = call.output_or_null<float>(dbias, "dbias", {h.critics, h.tasks, h.outputs});
  const Products products;
  float* space = call.output<float>(workspace, "workspace", {head_gather_workspace(h)});
  if ((dweights == nullptr) != (dshift == nullptr)) throw py::value_error("dkernel and dbias go together");
  py::gil_scoped_release unlocked;
  head_gather_backward(h, in, weights, ids.data(), gradient, din, dweights, dshift, space);
}

void td_target_of(py::object reward, py::object terminated, py::object next_q, py::object log_prob,
                  py::object temperature, py::object discount, py::object target) {
  Call call;
  const arrays::Array q = shaped(next_q, "next_q", 2);
  const int64_t critics = q.shape[0], rows = q.shape[1];
  at_least("next_q's critics", critics, 1);
  const float* r = call.input<float>(reward, "reward", {rows});
  const float* d = call.input<float>(terminated, "terminated", {rows});
  const float* values = call.input<float>(next_q, "next_q", {critics, rows});
  const float* density = call.input<float>(log_prob, "log_prob", {rows});
  const float* heat = call.input<float>(temperature, "temperature", {rows});
  const float* future = call.input<float>(discount, "discount", {rows});
  float* y = call.output<float>(target, "target", {rows});
  py::gil_scoped_release unlocked;
  td_target(critics, rows, r, d, values, density, heat, future, y);
}

double adam(py::object value, py::object gradient, py::object mean, py::object square, py::object target,
            double lr, double beta1, double beta2, double eps, double weight_decay, double clip,
            double polyak, int64_t steps) {
  Call call;
  const int64_t n = shaped(value, "value", 1).shape[0];
  if (steps < 1) throw py::value_error("steps is " + std::to_string(steps) + "; the first step is 1");
  float* v = call.output<float>(value, "value", {n});
  const float* g = call.input<float>(gradient, "gradient", {n});
  float* m = call.output<float>(mean, "mean", {n});
  float* s = call.output<float>(square, "square", {n});
  float* t = call.output_or_null<float>(target, "target", {n});
  py::gil_scoped_release unlocked;
  return adam_polyak({lr, beta1, beta2, eps, weight_decay, clip, polyak, steps}, n, g, m, s, v, t);
}

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

// SciPy's capsule of its BLAS (scipy.linalg.cython_blas) is named by the signature of what it points to.
void offer_blas_capsule(const py::capsule& sgemm) {
  const std::string signature = sgemm.name() == nullptr ? "(none)" : sgemm.name();
  if (signature.rfind("void (char *, char *, int *, int *, int *, ", 0) != 0)
    throw py::type_error("sgemm has the signature " + signature + "; expected one with 32-bit integers");
  Products::between([&] { offer_blas(reinterpret_cast<Sgemm>(sgemm.get_pointer())); });
}

void choose_kernel(const std::string& name) {
  if (name == matmul_kernel()) return;
  bool known = false;
  Products::between([&] { known = choose_matmul_kernel(name.c_str()); });
  if (!known)
    throw py::value_error("no matrix kernel '" + name +
                          "' on this machine; there are avx512, avx2, portable and, once offered, blas");
}

int64_t linear_workspace(int64_t critics, int64_t rows, int64_t inputs, int64_t outputs) {
  check_floats({{"critics", critics}, {"rows", rows}, {"inputs", inputs}, {"outputs", outputs}});
  const Products products;
  return ensemble_linear_workspace({critics, rows, inputs, outputs, 0, false});
}

int64_t head_workspace(int64_t critics, int64_t rows, int64_t width, int64_t outputs, int64_t tasks) {
  check_floats(
      {{"critics", critics}, {"rows", rows}, {"width", width}, {"outputs", outputs}, {"tasks", tasks}});
  const Products products;
  return head_gather_workspace({critics, rows, width, outputs, tasks, width});
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

void bind_critic(py::module_& m) {
  using bind::def;
  def(m, "matmul_kernel", &matmul_kernel);
  def(m, "choose_matmul_kernel", &choose_kernel, "name");
  def(m, "offer_blas", &offer_blas_capsule, "sgemm");
  def(m, "ensemble_linear_workspace", &linear_workspace, "critics", "rows", "inputs", "outputs");
  def(m, "ensemble_linear_forward", &linear_forward, "x", "kernel", "bias", "task_row", "task", "y",
      "workspace");
  def(m, "ensemble_linear_backward", &linear_backward, "x", "kernel", "task_row", "task", "y", "dy", "dz",
      "dx", "dkernel", "dbias", "dtask_row", "workspace");
  def(m, "head_gather_workspace", &head_workspace, "critics", "rows", "width", "outputs", "tasks");
  def(m, "head_gather_forward", &head_forward, "x", "kernel", "bias", "task", "y", "workspace");
  def(m, "head_gather_backward", &head_backward, "x", "kernel", "task", "dy", "dx", "dkernel", "dbias",
      "workspace");
  def(m, "td_target", &td_target_of, "reward", "terminated", "next_q", "log_prob", "temperature", "discount",
      "target");
  def(m, "adam_polyak", &adam, "value", "gradient", "mean", "square", "target", "lr", "beta1", "beta2", "eps",
      "weight_decay", "clip", "polyak", "steps");
  bind::Class<SacUpdate>(m, "SacUpdate")
      .init(&make_update, "settings", "actor", "critic", "threads")
      .def("__call__", &sac_update, "actor", "critic", "target", "log_temperature", "observation", "action",
           "reward", "terminated", "next_observation", "task", "weight", "discount", "next_noise", "noise",
           "priority")
      .def("act", &sac_act, "actor", "observation", "task", "noise", "action");
}
