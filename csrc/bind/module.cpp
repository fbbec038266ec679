// The Python module `mtrl._core`. Each room of kernels registers itself from its own file.
#include "module.h"

#include "cpu_features.h"
#include "function.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels of mtrl: prioritised multi-task replay and batched ensemble critics.";
  bind_replay(m);
  bind_critic(m);
  bind_sac_update(m);
  bind::def(
      m, "instruction_set",
      bind::Doc{
          "The widest instruction set of this machine that the kernels know: avx512, avx2 or portable."},
      +[] { return name_of(best_instruction_set()); });
  bind_cuda(m);
}
