// Checks every array and every task id, then calls the critic's kernels without the interpreter lock.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "critic/adam_polyak.h"
#include "critic/ensemble_linear.h"
#include "critic/head_gather.h"
#include "critic/matmul.h"
#include "critic/sac_update.h"
#include "critic/td_target.h"
#include "module.h"

namespace py = pybind11;
using arrays::input;
using arrays::output;

namespace {

// Task ids of `rows` rows, each below `tasks`; null for None.
const int64_t* task_ids(py::handle object, int64_t rows, int64_t tasks) {
  if (object.is_none()) return nullptr;
  const int64_t* task = input<int64_t>(object, "task", {rows});
  for (int64_t b = 0; b < rows; ++b) {
    if (task[b] < 0 || task[b] >= tasks) {
      throw py::value_error("task[" + std::to_string(b) + "] is " + std::to_string(task[b]) + "; there are " +
                            std::to_string(tasks) + " tasks");
    }
  }
  return task;
}

arrays::Array shaped(py::handle object, const char* name, int axes) {
  const arrays::Array array = arrays::view(object, name);
  if (array.ndim != axes) {
    throw py::value_error(std::string(name) + " has shape " + arrays::shape_text(array.shape, array.ndim) +
                          "; expected " + std::to_string(axes) + " axes");
  }
  return array;
}

template <class T>
T* or_null(py::handle object, const char* name, std::initializer_list<int64_t> shape) {
  return object.is_none() ? nullptr : output<T>(object, name, shape);
}

EnsembleLinear layer_of(py::handle x, py::handle kernel, py::handle task_row) {
  const arrays::Array k = shaped(kernel, "kernel", 3), in = arrays::view(x, "x");
  const bool shared = in.ndim == 2;
  if (in.ndim < 2) throw py::value_error("x has fewer than 2 axes; expected [B, D] or [E, B, D]");
  const int64_t tasks = task_row.is_none() ? 0 : shaped(task_row, "task_row", 3).shape[1];
  return {k.shape[0], in.shape[in.ndim - 2], k.shape[1], k.shape[2], tasks, shared};
}

const float* layer_input(const EnsembleLinear& l, py::handle x) {
  return l.shared ? input<float>(x, "x", {l.rows, l.inputs})
                  : input<float>(x, "x", {l.members, l.rows, l.inputs});
}

// The task rows of a layer and the tasks of its rows; both null where it has none.
std::pair<const float*, const int64_t*> task_part(const EnsembleLinear& l, py::handle task_row,
                                                  py::handle task) {
  const float* rows =
      task_row.is_none() ? nullptr : input<float>(task_row, "task_row", {l.members, l.tasks, l.outputs});
  const int64_t* ids = task_ids(task, l.rows, l.tasks);
  if ((rows == nullptr) != (ids == nullptr))
    throw py::value_error("task_row and task go together; one is missing");
  return {rows, ids};
}

void linear_forward(py::object x, py::object kernel, py::object bias, py::object task_row, py::object task,
                    py::object y, py::object workspace) {
  const EnsembleLinear l = layer_of(x, kernel, task_row);
  const float* in = layer_input(l, x);
  const float* weights = input<float>(kernel, "kernel", {l.members, l.inputs, l.outputs});
  const float* shift = input<float>(bias, "bias", {l.members, l.outputs});
  const auto [rows, ids] = task_part(l, task_row, task);
  float* out = output<float>(y, "y", {l.members, l.rows, l.outputs});
  float* space = output<float>(workspace, "workspace", {ensemble_linear_workspace(l)});
  py::gil_scoped_release unlocked;
  ensemble_linear_forward(l, in, weights, shift, rows, ids, out, space);
}

void linear_backward(py::object x, py::object kernel, py::object task_row, py::object task, py::object y,
                     py::object dy, py::object dz, py::object dx, py::object dkernel, py::object dbias,
                     py::object dtask_row, py::object workspace) {
  const EnsembleLinear l = layer_of(x, kernel, task_row);
  const float* in = layer_input(l, x);
  const float* weights = input<float>(kernel, "kernel", {l.members, l.inputs, l.outputs});
  const int64_t* ids = task_part(l, task_row, task).second;
  const float* after = input<float>(y, "y", {l.members, l.rows, l.outputs});
  const float* gradient = input<float>(dy, "dy", {l.members, l.rows, l.outputs});
  float* before = output<float>(dz, "dz", {l.members, l.rows, l.outputs});
  float* din = or_null<float>(dx, "dx", {l.members, l.rows, l.inputs});
  float* dweights = or_null<float>(dkernel, "dkernel", {l.members, l.inputs, l.outputs});
  float* dshift = or_null<float>(dbias, "dbias", {l.members, l.outputs});
  float* drows = or_null<float>(dtask_row, "dtask_row", {l.members, l.tasks, l.outputs});
  float* space = output<float>(workspace, "workspace", {ensemble_linear_workspace(l)});
  if (dweights && (!dshift || (l.tasks && !drows)))
    throw py::value_error("dkernel needs dbias and dtask_row");
  py::gil_scoped_release unlocked;
  ensemble_linear_mask(l, after, gradient, before);
  if (dweights) ensemble_linear_weight_gradients(l, in, ids, before, dweights, dshift, drows, space);
  if (din) ensemble_linear_input_gradient(l, weights, before, din, space);
}

HeadGather head_of(py::handle x, py::handle kernel) {
  const arrays::Array k = shaped(kernel, "kernel", 4), in = shaped(x, "x", 3);
  return {k.shape[0], in.shape[1], k.shape[2], k.shape[3], k.shape[1], k.shape[2]};
}

void head_forward(py::object x, py::object kernel, py::object bias, py::object task, py::object y,
                  py::object workspace) {
  const HeadGather h = head_of(x, kernel);
  const float* in = input<float>(x, "x", {h.members, h.rows, h.width});
  const float* weights = input<float>(kernel, "kernel", {h.members, h.tasks, h.width, h.outputs});
  const float* shift = input<float>(bias, "bias", {h.members, h.tasks, h.outputs});
  const int64_t* ids = task_ids(task, h.rows, h.tasks);
  if (!ids) throw py::value_error("task is None; a head is chosen by its row's task");
  float* out = output<float>(y, "y", {h.members, h.rows, h.outputs});
  float* space = output<float>(workspace, "workspace", {head_gather_workspace(h)});
  py::gil_scoped_release unlocked;
  head_gather_forward(h, in, weights, shift, ids, out, space);
}

void head_backward(py::object x, py::object kernel, py::object task, py::object dy, py::object dx,
                   py::object dkernel, py::object dbias, py::object workspace) {
  const HeadGather h = head_of(x, kernel);
  const float* in = input<float>(x, "x", {h.members, h.rows, h.width});
  const float* weights = input<float>(kernel, "kernel", {h.members, h.tasks, h.width, h.outputs});
  const int64_t* ids = task_ids(task, h.rows, h.tasks);
  if (!ids) throw py::value_error("task is None; a head is chosen by its row's task");
  const float* gradient = input<float>(dy, "dy", {h.members, h.rows, h.outputs});
  float* din = or_null<float>(dx, "dx", {h.members, h.rows, h.width});
  float* dweights = or_null<float>(dkernel, "dkernel", {h.members, h.tasks, h.width, h.outputs});
  float* dshift = or_null<float>(dbias, "dbias", {h.members, h.tasks, h.outputs});
  float* space = output<float>(workspace, "workspace", {head_gather_workspace(h)});
  if ((dweights == nullptr) != (dshift == nullptr)) throw py::value_error("dkernel and dbias go together");
  py::gil_scoped_release unlocked;
  head_gather_backward(h, in, weights, ids, gradient, din, dweights, dshift, space);
}

void soft_target(py::object reward, py::object terminated, py::object next_q, py::object log_prob,
                 py::object temperature, py::object discount, py::object target) {
  const arrays::Array q = shaped(next_q, "next_q", 2);
  const int64_t critics = q.shape[0], rows = q.shape[1];
  const float* r = input<float>(reward, "reward", {rows});
  const float* d = input<float>(terminated, "terminated", {rows});
  const float* values = input<float>(next_q, "next_q", {critics, rows});
  const float* density = input<float>(log_prob, "log_prob", {rows});
  const float* heat = input<float>(temperature, "temperature", {rows});
  const float* future = input<float>(discount, "discount", {rows});
  float* y = output<float>(target, "target", {rows});
  py::gil_scoped_release unlocked;
  td_target(critics, rows, r, d, values, density, heat, future, y);
}

double adam(py::object value, py::object gradient, py::object mean, py::object square, py::object target,
            double lr, double beta1, double beta2, double eps, double weight_decay, double clip,
            double polyak, int64_t steps) {
  const int64_t n = shaped(value, "value", 1).shape[0];
  if (steps < 1) throw py::value_error("steps is " + std::to_string(steps) + "; the first step is 1");
  float* v = output<float>(value, "value", {n});
  const float* g = input<float>(gradient, "gradient", {n});
  float* m = output<float>(mean, "mean", {n});
  float* s = output<float>(square, "square", {n});
  float* t = or_null<float>(target, "target", {n});
  py::gil_scoped_release unlocked;
  return adam_polyak({lr, beta1, beta2, eps, weight_decay, clip, polyak, steps}, n, g, m, s, v, t);
}

SacSettings settings_of(const py::dict& values) {
  const auto get = [&](const char* name) { return values[name].cast<double>(); };
  return {get("polyak"),         get("actor_lr"),     get("critic_lr"),  get("temperature_lr"),
          get("adam_eps"),       get("weight_decay"), get("actor_clip"), get("critic_clip"),
          get("target_entropy"), get("log_std_min"),  get("log_std_max")};
}

void at_least(const std::string& name, int64_t value, int64_t least) {
  if (value < least)
    throw py::value_error(name + " is " + std::to_string(value) + "; the least is " + std::to_string(least));
}

MultiHeadShape shape_of(const py::dict& values) {
  const auto get = [&](const char* name) { return values[name].cast<int64_t>(); };
  MultiHeadShape shape{get("members"),
                       get("inputs"),
                       get("outputs"),
                       get("tasks"),
                       get("width"),
                       get("depth"),
                       values["start"].cast<std::vector<int64_t>>()};
  for (const char* name : {"members", "inputs", "outputs", "tasks", "width", "depth"})
    at_least(name, get(name), 1);
  for (size_t i = 0; i < shape.start.size(); ++i)
    at_least("start[" + std::to_string(i) + "]", shape.start[i], 0);
  if (static_cast<int64_t>(shape.start.size()) != 3 + 2 * shape.depth) {
    throw py::value_error("start has " + std::to_string(shape.start.size()) + " entries; expected " +
                          std::to_string(3 + 2 * shape.depth));
  }
  return shape;
}

// The floats that a flat vector with this shape holds at least.
int64_t end_of(const MultiHeadShape& s) {
  const int64_t units = s.members * s.width, heads = s.members * s.tasks * s.outputs;
  int64_t end = std::max({s.start[0] + units * s.tasks, s.start[1] + heads * s.width, s.start[2] + heads});
  for (int64_t layer = 0; layer < s.depth; ++layer) {
    end = std::max(end, s.start[3 + layer] + units * (layer ? s.width : s.inputs));
    end = std::max(end, s.start[3 + s.depth + layer] + units);
  }
  return end;
}

AdamState adam_of(const py::tuple& state, int64_t size, const char* name) {
  if (state.size() != 5) throw py::value_error(std::string(name) + " has not 5 entries");
  const int64_t n = shaped(state[0], name, 1).shape[0];
  if (n < size) {
    throw py::value_error(std::string(name) + " has " + std::to_string(n) + " numbers; expected " +
                          std::to_string(size));
  }
  const std::string of = std::string(name) + "'s ";
  const auto steps = state[4].cast<int64_t>();
  if (steps < 1) throw py::value_error(of + "step is " + std::to_string(steps) + "; the first step is 1");
  return {output<float>(state[0], name, {n}),
          output<float>(state[1], (of + "gradient").c_str(), {n}),
          output<float>(state[2], (of + "mean").c_str(), {n}),
          output<float>(state[3], (of + "square").c_str(), {n}),
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
  const AdamState actor_state = adam_of(actor, end_of(a), "actor"),
                  critic_state = adam_of(critic, end_of(c), "critic");
  const AdamState temperature = adam_of(log_temperature, a.tasks, "log_temperature");
  float* slow = output<float>(target, "target", {critic_state.size});
  const int64_t* ids = task_ids(task, rows, a.tasks);
  if (!ids) throw py::value_error("task is None; every row belongs to a task");
  const SacBatch batch{rows,
                       input<float>(observation, "observation", {rows, a.inputs}),
                       input<float>(action, "action", {rows, actions}),
                       input<float>(reward, "reward", {rows}),
                       input<float>(terminated, "terminated", {rows}),
                       input<float>(next_observation, "next_observation", {rows, a.inputs}),
                       input<float>(weight, "weight", {rows}),
                       input<float>(discount, "discount", {rows}),
                       ids,
                       input<float>(next_noise, "next_noise", {rows, actions}),
                       input<float>(noise, "noise", {rows, actions})};
  float* errors = output<float>(priority, "priority", {rows});
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
  const float* value = input<float>(actor, "actor", {flat.shape[0]});
  const int64_t rows = shaped(observation, "observation", 2).shape[0];
  const float* seen = input<float>(observation, "observation", {rows, a.inputs});
  const int64_t* ids = task_ids(task, rows, a.tasks);
  if (!ids) throw py::value_error("task is None; every row belongs to a task");
  const float* draws = or_null<float>(noise, "noise", {rows, a.outputs / 2});
  float* chosen = output<float>(action, "action", {rows, a.outputs / 2});
  py::gil_scoped_release unlocked;
  self.act(value, rows, seen, ids, draws, chosen);
}

// SciPy's capsule of its BLAS (scipy.linalg.cython_blas) is named by the signature of what it points to.
void offer_blas_capsule(const py::capsule& sgemm) {
  const std::string signature = sgemm.name();
  if (signature.rfind("void (char *, char *, int *, int *, int *, ", 0) != 0)
    throw py::type_error("sgemm has the signature " + signature + "; expected one with 32-bit integers");
  offer_blas(reinterpret_cast<Sgemm>(sgemm.get_pointer()));
}

}  // namespace

void bind_critic(py::module_& m) {
  m.def("matmul_kernel", &matmul_kernel, "Name of the instruction set that matrix products run on.");
  m.def("choose_matmul_kernel", [](const std::string& name) {
    if (!choose_matmul_kernel(name.c_str())) {
      throw py::value_error("no matrix kernel '" + name +
                            "' on this machine; there are avx512, avx2, portable and, once offered, blas");
    }
  });
  m.def("offer_blas", &offer_blas_capsule, "Makes this sgemm the matrix kernel `blas`.");
  m.def("ensemble_linear_workspace", [](int64_t members, int64_t rows, int64_t inputs, int64_t outputs) {
    return ensemble_linear_workspace({members, rows, inputs, outputs, 0, false});
  });
  m.def("ensemble_linear_forward", &linear_forward);
  m.def("ensemble_linear_backward", &linear_backward);
  m.def("head_gather_workspace",
        [](int64_t members, int64_t rows, int64_t width, int64_t outputs, int64_t tasks) {
          return head_gather_workspace({members, rows, width, outputs, tasks, width});
        });
  m.def("head_gather_forward", &head_forward);
  m.def("head_gather_backward", &head_backward);
  m.def("td_target", &soft_target);
  m.def("adam_polyak", &adam);
  py::class_<SacUpdate>(m, "SacUpdate")
      .def(py::init([](const py::dict& settings, const py::dict& actor, const py::dict& critic, int threads) {
        MultiHeadShape a = shape_of(actor), c = shape_of(critic);
        if (a.members != 1 || c.outputs != 1 || a.tasks != c.tasks || a.outputs % 2 ||
            c.inputs != a.inputs + a.outputs / 2) {
          throw py::value_error("the shapes of actor and critic do not belong together");
        }
        at_least("threads", threads, 1);
        return std::make_unique<SacUpdate>(settings_of(settings), std::move(a), std::move(c), threads);
      }))
      .def("__call__", &sac_update)
      .def("act", &sac_act);
}
