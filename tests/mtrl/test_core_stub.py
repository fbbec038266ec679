"""mtrl/_core.pyi says what the compiled module has: the same names, with the same arguments."""

from __future__ import annotations

import ast
import inspect
import types
from pathlib import Path
from typing import Any

import pytest

from mtrl import _core
from tests.mtrl.cuda import cuda_on_host

STUB = Path(_core.__file__).parent / "_core.pyi"
OF_STUB = {"self", "return"}


def stub_names(body: list[ast.stmt]) -> dict[str, list[str] | None]:
    """Arguments by name of function or Class.method; None for properties."""
    names: dict[str, list[str] | None] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            given = [argument.arg for argument in arguments if argument.arg != "self"]
            is_property = any(ast.unparse(mark) == "property" for mark in node.decorator_list)
            names[node.name] = None if is_property else given
        elif isinstance(node, ast.ClassDef) and node.name != "cuda":
            inside = stub_names(node.body)
            names |= {f"{node.name}.{name}": arguments for name, arguments in inside.items()}
            names[node.name] = None
    return names


def module_names(module: Any) -> dict[str, list[str] | None]:
    names: dict[str, list[str] | None] = {}
    for name, value in vars(module).items():
        dunder = name.startswith("__") and name not in ("__init__", "__call__")
        if dunder or inspect.ismodule(value) or "pybind11" in name or name == "_pybind11_conduit_v1_":
            continue
        if inspect.isclass(value):
            names |= {f"{name}.{inner}": arguments for inner, arguments in module_names(value).items()}
            names[name] = None
        elif isinstance(value, property):
            names[name] = None
        elif not isinstance(
            value, types.WrapperDescriptorType
        ):  # object's own __init__: Python cannot make one
            names[name] = [argument for argument in inspect.signature(value).parameters if argument != "self"]
    return names


def classes_of(tree: ast.Module) -> list[ast.stmt]:
    (kernels,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "cuda")
    return kernels.body


def test_the_stub_is_of_the_module() -> None:
    assert stub_names(ast.parse(STUB.read_text()).body) == module_names(_core)


def test_the_stub_is_of_the_cuda_kernels() -> None:
    given = module_names(cuda_on_host.kernels())
    given.pop("launches")  # for tests, of the module on the host alone
    assert stub_names(classes_of(ast.parse(STUB.read_text()))) == given


def test_an_argument_of_another_name_is_noticed() -> None:
    changed = STUB.read_text().replace("gradient: Array", "slope: Array")
    names = stub_names(ast.parse(changed).body)
    with pytest.raises(AssertionError):
        assert names == module_names(_core)
