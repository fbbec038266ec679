// Checks every tensor, then starts cuBLASLt's products on the caller's stream; nothing waits for the GPU.
#include "cuda/cublaslt.h"

#include <pybind11/stl.h>

#include "bind/cuda/call.h"
#include "bind/function.h"
#include "bind/module.h"

namespace py = pybind11;
using cuda_bindings::Call;

namespace {

LtPlan choose(const py::object& library, bool backward, bool mask, int64_t critics, int64_t rows,
              int64_t width, bool tf32, int device) {
  auto& lt = bind::made<CublasLt>(library, "library");
  const OnDevice on(device);
  const LtProduct product = backward ? LtProduct::kBackward
                            : mask   ? LtProduct::kForwardMask
                                     : LtProduct::kForward;
  return lt.choose(product, critics, rows, width, tf32);
}

void run(const py::object& library, const py::object& chosen, py::object left, py::object kernel,
         py::object bias, py::object mask, py::object out, py::object workspace, uintptr_t stream) {
  const auto& lt = bind::made<CublasLt>(library, "library");
  const auto& plan = bind::made<LtPlan>(chosen, "plan");
  Call call(stream);
  const int64_t critics = plan.critics, rows = plan.rows, width = plan.width;
  LtTensors t{call.get<float>(left, "left", {critics, rows, width}),
              call.get<float>(kernel, "kernel", {critics, width, width}),
              call.get<float>(bias, "bias", {critics, width}),
              call.maybe<uint8_t>(mask, "mask", {lt_mask_bytes(critics, rows, width)}),
              call.get<float>(out, "out", {critics, rows, width}),
              call.workspace(workspace, static_cast<int64_t>(plan.workspace))};
  if (plan.product != LtProduct::kForward && t.mask == nullptr)
    throw py::value_error("mask is None; this product needs one");
  for (const void* start :
       {static_cast<const void*>(t.left), static_cast<const void*>(t.kernel),
        static_cast<const void*>(t.bias), static_cast<const void*>(t.mask), static_cast<const void*>(t.out)})
    if (reinterpret_cast<uintptr_t>(start) % 16 != 0)
      throw py::value_error("the tensors of cuBLASLt's products must start at multiples of 16 bytes");
  call.run([&](cudaStream_t s) { lt.run(plan, t, s); });
}

std::unique_ptr<CublasLt> make_library(const std::vector<std::string>& sonames) {
  return std::make_unique<CublasLt>(sonames);
}

int64_t workspace_of(LtPlan& plan) { return static_cast<int64_t>(plan.workspace); }

}  // namespace

void bind_cublaslt(py::module_& m) {
  using bind::def;
  bind::Class<CublasLt>(m, "CublasLt", py::module_local())
      .init(&make_library, "sonames")
      .property("version", &CublasLt::version);
  bind::Class<LtPlan>(m, "LtPlan", py::module_local()).property("workspace", &workspace_of);
  def(m, "cublaslt_mask_bytes", &lt_mask_bytes, "critics", "rows", "width");
  def(m, "cublaslt_choose", &choose, "library", "backward", "mask", "critics", "rows", "width", "tf32",
      "device");
  def(m, "cublaslt_run", &run, "library", "plan", "left", "kernel", "bias", "mask", "out", "workspace",
      "stream");
}
