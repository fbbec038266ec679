// Checks every tensor, then starts the CUDA kernels of csrc/critic on the caller's stream; nothing waits for
// the GPU. What only the GPU could check without waiting (task ids, where rows begin) is the caller's to get
// right.
#include "bind/cuda/call.h"
#include "bind/function.h"
#include "bind/module.h"
#include "critic/adam_polyak.cuh"
#include "critic/ensemble_linear.cuh"
#include "critic/head_gather.cuh"
#include "critic/min_routing.cuh"
#include "critic/tanh_gaussian.cuh"
#include "critic/td_target.cuh"

namespace py = pybind11;
using cuda_bindings::Call;

namespace {

void td_target(py::object reward, py::object terminated, py::object next_q, py::object log_prob,
               py::object temperature, py::object q, py::object weight, py::object discount,
               py::object target, py::object dq, py::object priority, py::object mean, py::object workspace,
               uintptr_t stream) {
  Call call(stream);
  const arrays::Array values = call.view(next_q, "next_q", 2);
  const int64_t critics = values.shape[0], rows = values.shape[1];
  TdTargetCuda t{critics,
                 rows,
                 call.get<float>(reward, "reward", {rows}),
                 call.get<float>(terminated, "terminated", {rows}),
                 call.get<float>(next_q, "next_q", {critics, rows}),
                 call.get<float>(log_prob, "log_prob", {rows}),
                 call.get<float>(temperature, "temperature", {rows}),
                 nullptr,
                 nullptr,
                 call.get<float>(discount, "discount", {rows}),
                 call.get<float>(target, "target", {rows}),
                 nullptr,
                 nullptr,
                 nullptr,
                 nullptr};
  if (!q.is_none()) {
    t.q = call.get<float>(q, "q", {critics, rows});
    t.weight = call.get<float>(weight, "weight", {rows});
    t.dq = call.get<float>(dq, "dq", {critics, rows});
    t.priority = call.get<float>(priority, "priority", {rows});
    t.mean = call.get<float>(mean, "mean", {2});
    t.workspace = call.workspace(workspace, td_target_cuda_workspace(rows));
  }
  if (rows > 0) call.run([&](cudaStream_t s) { td_target_cuda(t, s); });
}

void rows_by_task(py::object task, py::object start, py::object order, uintptr_t stream) {
  Call call(stream);
  const int64_t rows = call.view(task, "task", 1).shape[0], tasks = call.view(start, "start", 1).shape[0] - 1;
  if (tasks < 1) throw py::value_error("start has no room for a task; expected [tasks + 1]");
  const auto* ids = call.get<int64_t>(task, "task", {rows});
  auto* first = call.get<int64_t>(start, "start", {tasks + 1});
  auto* sorted = call.get<int64_t>(order, "order", {rows});
  call.run([&](cudaStream_t s) { rows_by_task_cuda(rows, tasks, ids, first, sorted, s); });
}

HeadGatherCuda head_of(Call& call, py::handle kernel, int64_t rows) {
  const arrays::Array k = call.view(kernel, "kernel", 4);
  return {k.shape[0], rows, k.shape[2], k.shape[3], k.shape[1]};
}

void head_forward(py::object x, py::object kernel, py::object bias, py::object task, py::object y,
                  uintptr_t stream) {
  Call call(stream);
  const HeadGatherCuda h = head_of(call, kernel, call.view(x, "x", 3).shape[1]);
  const auto* in = call.get<float>(x, "x", {h.critics, h.rows, h.width});
  const auto* weights = call.get<float>(kernel, "kernel", {h.critics, h.tasks, h.width, h.outputs});
  const auto* shift = call.get<float>(bias, "bias", {h.critics, h.tasks, h.outputs});
  const auto* ids = call.get<int64_t>(task, "task", {h.rows});
  auto* out = call.get<float>(y, "y", {h.critics, h.rows, h.outputs});
  if (h.rows > 0)
    call.run([&](cudaStream_t s) { head_gather_forward_cuda(h, in, weights, shift, ids, out, s); });
}

void head_input_gradient(py::object kernel, py::object task, py::object dy, py::object dx, uintptr_t stream) {
  Call call(stream);
  const HeadGatherCuda h = head_of(call, kernel, call.view(dy, "dy", 3).shape[1]);
  const auto* weights = call.get<float>(kernel, "kernel", {h.critics, h.tasks, h.width, h.outputs});
  const auto* ids = call.get<int64_t>(task, "task", {h.rows});
  const auto* gradient = call.get<float>(dy, "dy", {h.critics, h.rows, h.outputs});
  auto* din = call.get<float>(dx, "dx", {h.critics, h.rows, h.width});
  if (h.rows > 0)
    call.run([&](cudaStream_t s) { head_gather_input_gradient_cuda(h, weights, ids, gradient, din, s); });
}

void head_weight_gradient(py::object x, py::object start, py::object order, py::object dy, py::object dkernel,
                          py::object dbias, uintptr_t stream) {
  Call call(stream);
  const HeadGatherCuda h = head_of(call, dkernel, call.view(x, "x", 3).shape[1]);
  const auto* in = call.get<float>(x, "x", {h.critics, h.rows, h.width});
  const auto* first = call.get<int64_t>(start, "start", {h.tasks + 1});
  const auto* sorted = call.get<int64_t>(order, "order", {h.rows});
  const auto* gradient = call.get<float>(dy, "dy", {h.critics, h.rows, h.outputs});
  auto* dweights = call.get<float>(dkernel, "dkernel", {h.critics, h.tasks, h.width, h.outputs});
  auto* dshift = call.get<float>(dbias, "dbias", {h.critics, h.tasks, h.outputs});
  call.run([&](cudaStream_t s) {
    head_gather_weight_gradient_cuda(h, in, first, sorted, gradient, dweights, dshift, s);
  });
}

EnsembleLinearCuda layer_of(Call& call, py::handle y, py::handle task_row) {
  const arrays::Array out = call.view(y, "y", 3);
  const int64_t tasks = task_row.is_none() ? 0 : call.view(task_row, "task_row", 3).shape[1];
  return {out.shape[0], out.shape[1], out.shape[2], tasks};
}

void bias_relu(py::object bias, py::object task_row, py::object task, py::object y, uintptr_t stream) {
  Call call(stream);
  const EnsembleLinearCuda l = layer_of(call, y, task_row);
  if (task_row.is_none() != task.is_none())
    throw py::value_error("task_row and task go together; one is missing");
  const auto* shift = call.get<float>(bias, "bias", {l.critics, l.outputs});
  const auto* own = call.maybe<float>(task_row, "task_row", {l.critics, l.tasks, l.outputs});
  const auto* ids = call.maybe<int64_t>(task, "task", {l.rows});
  auto* out = call.get<float>(y, "y", {l.critics, l.rows, l.outputs});
  if (l.rows > 0)
    call.run([&](cudaStream_t s) { ensemble_linear_bias_relu_cuda(l, shift, own, ids, out, s); });
}

void mask(py::object y, py::object dy, py::object dz, uintptr_t stream) {
  Call call(stream);
  const EnsembleLinearCuda l = layer_of(call, y, py::none());
  const auto* out = call.get<float>(y, "y", {l.critics, l.rows, l.outputs});
  const auto* gradient = call.get<float>(dy, "dy", {l.critics, l.rows, l.outputs});
  auto* before = call.get<float>(dz, "dz", {l.critics, l.rows, l.outputs});
  if (l.rows > 0) call.run([&](cudaStream_t s) { ensemble_linear_mask_cuda(l, out, gradient, before, s); });
}

void bias_gradient(py::object dz, py::object start, py::object order, py::object dbias, py::object dtask_row,
                   py::object workspace, uintptr_t stream) {
  Call call(stream);
  const EnsembleLinearCuda l = layer_of(call, dz, dtask_row);
  const auto* before = call.get<float>(dz, "dz", {l.critics, l.rows, l.outputs});
  auto* shift = call.get<float>(dbias, "dbias", {l.critics, l.outputs});
  auto* own = call.maybe<float>(dtask_row, "dtask_row", {l.critics, l.tasks, l.outputs});
  const int64_t* first = own == nullptr ? nullptr : call.get<int64_t>(start, "start", {l.tasks + 1});
  const int64_t* sorted = own == nullptr ? nullptr : call.get<int64_t>(order, "order", {l.rows});
  const int64_t bytes = ensemble_linear_cuda_workspace(l) * static_cast<int64_t>(sizeof(float));
  auto* space = own == nullptr ? static_cast<float*>(call.workspace(workspace, bytes)) : nullptr;
  if (l.rows == 0) throw py::value_error("dz has no rows");
  call.run([&](cudaStream_t s) {
    ensemble_linear_bias_gradient_cuda(l, before, first, sorted, shift, own, space, s);
  });
}

int64_t linear_workspace(int64_t critics, int64_t rows, int64_t outputs) {
  return ensemble_linear_cuda_workspace({critics, rows, outputs, 0}) * static_cast<int64_t>(sizeof(float));
}

void route(py::object q, py::object start, py::object row, py::object least, py::object workspace,
           uintptr_t stream) {
  Call call(stream);
  const arrays::Array values = call.view(q, "q", 2);
  const int64_t critics = values.shape[0], rows = values.shape[1];
  const auto* v = call.get<float>(q, "q", {critics, rows});
  auto* first = call.get<int64_t>(start, "start", {critics + 1});
  auto* sorted = call.get<int64_t>(row, "row", {rows});
  auto* minima = call.get<float>(least, "least", {rows});
  auto* space =
      static_cast<int64_t*>(call.workspace(workspace, rows * static_cast<int64_t>(sizeof(int64_t))));
  if (rows > 0)
    call.run([&](cudaStream_t s) { route_rows_cuda(critics, rows, v, first, sorted, minima, space, s); });
}

RoutedCuda routed_of(Call& call, py::handle start, py::handle row) {
  const int64_t critics = call.view(start, "start", 1).shape[0] - 1, rows = call.view(row, "row", 1).shape[0];
  if (critics < 1) throw py::value_error("start has no room for a critic; expected [critics + 1]");
  return {critics, rows, call.get<int64_t>(start, "start", {critics + 1}),
          call.get<int64_t>(row, "row", {rows})};
}

void routed_head(py::object start, py::object row, py::object task, py::object kernel, float dq, py::object y,
                 py::object dz, uintptr_t stream) {
  Call call(stream);
  const RoutedCuda r = routed_of(call, start, row);
  const int64_t tasks = call.view(kernel, "kernel", 4).shape[1], width = call.view(dz, "dz", 2).shape[1];
  const auto* ids = call.get<int64_t>(task, "task", {r.rows});
  const auto* weights = call.get<float>(kernel, "kernel", {r.critics, tasks, width, 1});
  const auto* alive = call.get<float>(y, "y", {r.critics, r.rows, width});
  auto* to = call.get<float>(dz, "dz", {r.rows, width});
  if (r.rows > 0)
    call.run([&](cudaStream_t s) { routed_head_cuda(r, tasks, width, ids, weights, dq, alive, to, s); });
}

void routed_layer(py::object start, py::object row, py::object dz, py::object kernel, py::object y,
                  py::object dx, uintptr_t stream) {
  Call call(stream);
  const RoutedCuda r = routed_of(call, start, row);
  const arrays::Array k = call.view(kernel, "kernel", 3);
  const int64_t inputs = k.shape[1], width = k.shape[2], cols = call.view(dx, "dx", 2).shape[1];
  if (cols > inputs)
    throw py::value_error("dx has " + std::to_string(cols) + " columns; kernel has " +
                          std::to_string(inputs) + " inputs");
  const auto* from = call.get<float>(dz, "dz", {r.rows, width});
  const auto* weights = call.get<float>(kernel, "kernel", {r.critics, inputs, width});
  const auto* alive = call.maybe<float>(y, "y", {r.critics, r.rows, cols});
  auto* to = call.get<float>(dx, "dx", {r.rows, cols});
  if (r.rows > 0)
    call.run([&](cudaStream_t s) { routed_layer_cuda(r, width, inputs, cols, from, weights, alive, to, s); });
}

void least_gradient(py::object q, float slope, py::object dq, py::object least, uintptr_t stream) {
  Call call(stream);
  const arrays::Array values = call.view(q, "q", 2);
  const int64_t critics = values.shape[0], rows = values.shape[1];
  const auto* v = call.get<float>(q, "q", {critics, rows});
  auto* gradient = call.get<float>(dq, "dq", {critics, rows});
  auto* minima = call.get<float>(least, "least", {rows});
  if (rows > 0)
    call.run([&](cudaStream_t s) { least_gradient_cuda(critics, rows, v, slope, gradient, minima, s); });
}

// `action` may be wider than the actions: they are its first columns.
TanhGaussianCuda gaussian_of(Call& call, py::handle output, py::handle action, float low, float high) {
  const arrays::Array out = call.view(output, "output", 2);
  const TanhGaussianCuda g{out.shape[0], out.shape[1] / 2, low, high};
  const arrays::Array wide = call.view(action, "action", 2);
  if (out.shape[1] % 2 != 0 || wide.shape[0] != g.rows || wide.shape[1] < g.actions)
    throw py::value_error("output has shape " + arrays::shape_text(out.shape, 2) + " and action " +
                          arrays::shape_text(wide.shape, 2) + "; expected [B, 2 A] and [B, A or more]");
  return g;
}

void gaussian_sample(py::object output, py::object noise, float log_std_min, float log_std_max,
                     py::object action, py::object log_prob, uintptr_t stream) {
  Call call(stream);
  const TanhGaussianCuda g = gaussian_of(call, output, action, log_std_min, log_std_max);
  const int64_t wide = call.view(action, "action", 2).shape[1];
  const auto* out = call.get<float>(output, "output", {g.rows, 2 * g.actions});
  const auto* eps = call.maybe<float>(noise, "noise", {g.rows, g.actions});
  auto* to = call.get<float>(action, "action", {g.rows, wide});
  auto* density = eps == nullptr ? nullptr : call.get<float>(log_prob, "log_prob", {g.rows});
  if (g.rows > 0)
    call.run([&](cudaStream_t s) { tanh_gaussian_sample_cuda(g, out, eps, to, wide, density, s); });
}

void gaussian_backward(py::object output, py::object noise, float log_std_min, float log_std_max,
                       py::object action, py::object daction, py::object dlog_prob, py::object doutput,
                       uintptr_t stream) {
  Call call(stream);
  const TanhGaussianCuda g = gaussian_of(call, output, action, log_std_min, log_std_max);
  const int64_t wide = call.view(action, "action", 2).shape[1];
  const auto* out = call.get<float>(output, "output", {g.rows, 2 * g.actions});
  const auto* eps = call.get<float>(noise, "noise", {g.rows, g.actions});
  const auto* taken = call.get<float>(action, "action", {g.rows, wide});
  const auto* of_action = call.get<float>(daction, "daction", {g.rows, g.actions});
  const auto* of_density = call.get<float>(dlog_prob, "dlog_prob", {g.rows});
  auto* to = call.get<float>(doutput, "doutput", {g.rows, 2 * g.actions});
  if (g.rows > 0)
    call.run([&](cudaStream_t s) {
      tanh_gaussian_backward_cuda(g, out, eps, taken, wide, of_action, of_density, to, s);
    });
}

void adam(py::object value, py::object gradient, py::object mean, py::object square, py::object target,
          double lr, double beta1, double beta2, double eps, double weight_decay, double clip, double polyak,
          py::object steps, py::object norm, py::object workspace, uintptr_t stream) {
  Call call(stream);
  const int64_t n = call.view(value, "value", 1).shape[0];
  const AdamPolyakCuda a{lr,
                         beta1,
                         beta2,
                         eps,
                         weight_decay,
                         clip,
                         polyak,
                         n,
                         call.get<float>(gradient, "gradient", {n}),
                         call.get<float>(mean, "mean", {n}),
                         call.get<float>(square, "square", {n}),
                         call.get<float>(value, "value", {n}),
                         call.maybe<float>(target, "target", {n}),
                         call.get<int64_t>(steps, "steps", {1}),
                         call.get<float>(norm, "norm", {1}),
                         call.workspace(workspace, adam_polyak_cuda_workspace(n))};
  for (const float* start :
       {a.gradient, static_cast<const float*>(a.mean), static_cast<const float*>(a.square),
        static_cast<const float*>(a.value), static_cast<const float*>(a.target)})
    if (reinterpret_cast<uintptr_t>(start) % 16 != 0)
      throw py::value_error("the vectors of adam_polyak must start at multiples of 16 bytes");
  if (n > 0) call.run([&](cudaStream_t s) { adam_polyak_cuda(a, s); });
}

}  // namespace

void bind_cuda_critic(py::module_& m) {
  using bind::def;
  def(m, "td_target_workspace", &td_target_cuda_workspace, "rows");
  def(m, "td_target", &td_target, "reward", "terminated", "next_q", "log_prob", "temperature", "q", "weight",
      "discount", "target", "dq", "priority", "mean", "workspace", "stream");
  def(m, "rows_by_task", &rows_by_task, "task", "start", "order", "stream");
  def(m, "head_gather_forward", &head_forward, "x", "kernel", "bias", "task", "y", "stream");
  def(m, "head_gather_input_gradient", &head_input_gradient, "kernel", "task", "dy", "dx", "stream");
  def(m, "head_gather_weight_gradient", &head_weight_gradient, "x", "start", "order", "dy", "dkernel",
      "dbias", "stream");
  def(m, "ensemble_linear_bias_relu", &bias_relu, "bias", "task_row", "task", "y", "stream");
  def(m, "ensemble_linear_mask", &mask, "y", "dy", "dz", "stream");
  def(m, "ensemble_linear_bias_gradient", &bias_gradient, "dz", "start", "order", "dbias", "dtask_row",
      "workspace", "stream");
  def(m, "ensemble_linear_workspace", &linear_workspace, "critics", "rows", "outputs");
  def(m, "route_rows", &route, "q", "start", "row", "least", "workspace", "stream");
  def(m, "routed_head", &routed_head, "start", "row", "task", "kernel", "dq", "y", "dz", "stream");
  def(m, "routed_layer", &routed_layer, "start", "row", "dz", "kernel", "y", "dx", "stream");
  def(m, "least_gradient", &least_gradient, "q", "slope", "dq", "least", "stream");
  def(m, "tanh_gaussian_sample", &gaussian_sample, "output", "noise", "log_std_min", "log_std_max", "action",
      "log_prob", "stream");
  def(m, "tanh_gaussian_backward", &gaussian_backward, "output", "noise", "log_std_min", "log_std_max",
      "action", "daction", "dlog_prob", "doutput", "stream");
  def(m, "adam_polyak_workspace", &adam_polyak_cuda_workspace, "size");
  def(m, "adam_polyak", &adam, "value", "gradient", "mean", "square", "target", "lr", "beta1", "beta2", "eps",
      "weight_decay", "clip", "polyak", "steps", "norm", "workspace", "stream");
}
