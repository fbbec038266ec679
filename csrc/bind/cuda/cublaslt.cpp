// Checks every tensor, then starts cuBLASLt's products on the caller's stream; nothing waits for the GPU.
#include "cuda/cublaslt.h"

#include <pybind11/stl.h>

#include "bind/cuda/call.h"
#include "bind/method.h"
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

}  // namespace

void bind_cublaslt(py::module_& m) {
  using py::arg;
  py::class_<CublasLt>(m, "CublasLt", py::module_local())
      .def(py::init<const std::vector<std::string>&>(), arg("sonames"))
      .def_property_readonly("version", bind::method(&CublasLt::version));
  py::class_<LtPlan>(m, "LtPlan", py::module_local())
      .def_property_readonly(
          "workspace", [](const py::object& self) { return bind::made<LtPlan>(self, "self").workspace; });
  m.def("cublaslt_mask_bytes", &lt_mask_bytes, arg("critics"), arg("rows"), arg("width"));
  m.def("cublaslt_choose", &choose, arg("library"), arg("backward"), arg("mask"), arg("critics"), arg("rows"),
        arg("width"), arg("tf32"), arg("device"));
  m.def("cublaslt_run", &run, arg("library"), arg("plan"), arg("left"), arg("kernel"), arg("bias"),
        arg("mask"), arg("out"), arg("workspace"), arg("stream"));
}
