"""What matrix products run on."""

import importlib

import pytest

from mtrl import _core, matmul


def test_products_are_taken_from_blas_where_own_kernels_would_be_portable(monkeypatch):
    assert matmul.choose_matmul("auto") == matmul.choose_matmul("own") == _core.matmul_kernel()
    monkeypatch.setattr("mtrl.matmul._own_kernel", lambda: "portable")
    assert matmul.choose_matmul("auto").startswith("blas (")
    assert _core.matmul_kernel() == "blas"
    assert matmul.choose_matmul("own") == _core.matmul_kernel() == "portable"
    monkeypatch.undo()
    matmul.choose_matmul("own")


def test_a_blas_of_another_form_is_refused():
    module = importlib.import_module("scipy.linalg.cython_blas")
    with pytest.raises(TypeError, match="expected one with 32-bit integers"):
        _core.offer_blas(module.__pyx_capi__["sdot"])
