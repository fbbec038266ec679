// The Python module `mtrl._core`. Each room of kernels registers itself from its own file.
#include "module.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels of mtrl: prioritised multi-task replay and batched ensemble critics.";
  bind_replay(m);
  bind_critic(m);
  bind_cuda(m);
}
