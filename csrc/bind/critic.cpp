// Checks every array and every task id, then calls the critic's kernels without the interpreter lock.
#include <stdexcept>
#include <string>

#include "arrays.h"
#include "critic/adam_polyak.h"
#include "critic/ensemble_linear.h"
#include "critic/head_gather.h"
#include "critic/matmul.h"
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

void linear_forward(py::object x, py::object kernel, py::object bias, py::object task_row, py::object task,
                    py::object y, py::object workspace) {
  const EnsembleLinear l = layer_of(x, kernel, task_row);
  const float* in = layer_input(l, x);
  const float* weights = input<float>(kernel, "kernel", {l.members, l.inputs, l.outputs});
  const float* shift = input<float>(bias, "bias", {l.members, l.outputs});
  const float* rows = or_null<float>(task_row, "task_row", {l.members, l.tasks, l.outputs});
  const int64_t* ids = task_ids(task, l.rows, l.tasks);
  if ((rows == nullptr) != (ids == nullptr))
    throw py::value_error("task_row and task go together; one is missing");
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
  const int64_t* ids = task_ids(task, l.rows, l.tasks);
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
  return {k.shape[0], in.shape[1], k.shape[2], k.shape[3], k.shape[1]};
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
                 py::object temperature, double discount, py::object target) {
  const arrays::Array q = shaped(next_q, "next_q", 2);
  const int64_t critics = q.shape[0], rows = q.shape[1];
  const float* r = input<float>(reward, "reward", {rows});
  const float* d = input<float>(terminated, "terminated", {rows});
  const float* values = input<float>(next_q, "next_q", {critics, rows});
  const float* density = input<float>(log_prob, "log_prob", {rows});
  const float* heat = input<float>(temperature, "temperature", {rows});
  float* y = output<float>(target, "target", {rows});
  py::gil_scoped_release unlocked;
  td_target(critics, rows, r, d, values, density, heat, static_cast<float>(discount), y);
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

}  // namespace

void bind_critic(py::module_& m) {
  m.def("matmul_kernel", &matmul_kernel, "Name of the instruction set that matrix products run on.");
  m.def("choose_matmul_kernel", [](const std::string& name) {
    if (!choose_matmul_kernel(name.c_str())) {
      throw py::value_error("no matrix kernel '" + name +
                            "' on this machine; there are avx512, avx2 and portable");
    }
  });
  m.def("ensemble_linear_workspace", [](int64_t members, int64_t rows, int64_t inputs, int64_t outputs) {
    return ensemble_linear_workspace({members, rows, inputs, outputs, 0, false});
  });
  m.def("ensemble_linear_forward", &linear_forward);
  m.def("ensemble_linear_backward", &linear_backward);
  m.def("head_gather_workspace",
        [](int64_t members, int64_t rows, int64_t width, int64_t outputs, int64_t tasks) {
          return head_gather_workspace({members, rows, width, outputs, tasks});
        });
  m.def("head_gather_forward", &head_forward);
  m.def("head_gather_backward", &head_backward);
  m.def("td_target", &soft_target);
  m.def("adam_polyak", &adam);
}
