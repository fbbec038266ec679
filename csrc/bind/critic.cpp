// Checks every array and every task id, then calls the critic's kernels without the interpreter lock.
#include "critic.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "critic/adam_polyak.h"
#include "critic/ensemble_linear.h"
#include "critic/head_gather.h"
#include "critic/matmul.h"
#include "critic/td_target.h"
#include "function.h"
#include "module.h"

namespace py = pybind11;
using namespace critic_bindings;

namespace {

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
}
