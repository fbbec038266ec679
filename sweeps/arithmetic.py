"""Arithmetic on the values of a cell, for `derive` in a grid: numbers, names, + - * / // % **, and a few functions.

A value is named by its key, `network.actor.width`, or with underscores, `network_actor_width`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from mtrl.names import nearest
from mtrl.sizing import actor_width, critic_width, match_system, total_width

LARGEST_BITS = 4096  # of a whole number that ** may return


def power(base: float, exponent: float) -> Any:
    """base ** exponent. Raises ArithmeticError if it is not real, or a whole number of more than LARGEST_BITS bits."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > LARGEST_BITS:
        raise ArithmeticError("the power is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise ArithmeticError("the power is no real number")
    return result


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "round": round,
    "int": int,
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "log": math.log,  # natural, or to a base: log(value, 2)
    "exp": math.exp,
    "actor_width": actor_width,  # (parameters, tasks)
    "critic_width": critic_width,  # (parameters, tasks, critics=2)
    "total_width": total_width,  # (parameters, tasks, critics=2)
    "match_actor": lambda system, tasks: match_system(system, "actor", tasks),
    "match_critic": lambda system, tasks: match_system(system, "critic", tasks),
    "match_total": lambda system, tasks: match_system(system, "total", tasks),
}
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: power,
    ast.USub: operator.neg,
}


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """The value of `expression`, with `names` as the values of names, dots replaced by underscores.

    Raises ValueError for an unknown name, for anything but arithmetic, and for a result that does not exist.
    """

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name() | ast.Attribute():
                key = ast.unparse(node)
                if key.replace(".", "_") not in names:
                    known = nearest(key.replace(".", "_"), names)
                    raise ValueError(f"the cell sets no '{key}', which '{expression}' needs{known}")
                return names[key.replace(".", "_")]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(operand))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                return _call(name, [value(argument) for argument in arguments], expression)
            case _:
                raise ValueError(f"'{ast.unparse(node)}' in '{expression}' is not plain arithmetic")

    try:
        return value(ast.parse(expression, mode="eval"))
    except SyntaxError:
        raise ValueError(f"'{expression}' is not an expression") from None
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"'{expression}': {error}") from None


def _call(name: str, arguments: list[Any], expression: str) -> Any:
    try:
        return FUNCTIONS[name](*arguments)
    except ValueError as error:
        given = ", ".join(map(str, arguments))
        raise ValueError(f"'{expression}': {name}({given}): {error}") from None
