"""How many CPUs this process may use."""

from __future__ import annotations

import os


def usable_cpus() -> int:
    """CPUs that this process is bound to (Slurm and taskset bind it to some), else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed_threads(wished: int) -> int:
    """`wished`, or fewer: no more than the usable CPUs and than OMP_NUM_THREADS says."""
    openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2": of the outermost level
    return min(wished, usable_cpus(), int(openmp) if openmp.isdecimal() and int(openmp) else wished)
