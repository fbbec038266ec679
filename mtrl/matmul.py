"""The library of this process's matrix products: this project's kernels, or SciPy's BLAS."""

from __future__ import annotations

import ctypes
import functools
import importlib
from typing import Any, Literal

from mtrl import _core


def choose_matmul(kind: Literal["auto", "own", "blas"] = "auto") -> str:
    """Chooses the library of all matrix products of this process from now on, and returns its name.

    "own" is the best of this project's kernels here: avx512, avx2 or portable. "blas" is the library that SciPy
    computes with (OpenBLAS in its wheels; MKL, Accelerate and others elsewhere), limited to one thread per call. "auto"
    takes "own" if it has a kernel for the machine's vector instructions, and "blas" if it has only the portable one.
    Do not call this while an update runs.
    """
    own: str = _own_kernel()
    if kind == "blas" or (kind == "auto" and own == "portable"):
        library = _blas()
        _core.choose_matmul_kernel("blas")
        return f"blas ({library})"
    _core.choose_matmul_kernel(own)
    return own


@functools.cache
def _own_kernel() -> str:
    for name in ("avx512", "avx2"):
        try:
            _core.choose_matmul_kernel(name)
        except ValueError:
            continue
        return name
    return "portable"


@functools.cache
def _blas() -> str:
    """Gives SciPy's sgemm to the kernels, and returns the name and version of the library behind it.

    scipy.linalg.cython_blas has the functions of SciPy's BLAS as C pointers, whichever library it was built with.
    """
    module = importlib.import_module("scipy.linalg.cython_blas")
    _core.offer_blas(module.__pyx_capi__["sgemm"])
    symbols = ctypes.CDLL(module.__file__)  # finds what its own libraries export, too
    for name in ("scipy_openblas_set_num_threads", "openblas_set_num_threads", "MKL_Set_Num_Threads"):
        if hasattr(symbols, name):
            getattr(symbols, name)(1)  # the update shares its blocks out among threads of its own
    built: Any = importlib.import_module("scipy").show_config(mode="dicts")
    library = built["Build Dependencies"]["blas"]
    return f"{library['name']} {library['version']}"
