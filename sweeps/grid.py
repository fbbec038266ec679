"""Grids: a TOML file, with overrides from the command line, becomes a list of cells.

    about  = "one line"                    shown by `mtrl-sweep grids`
    preset = "paper"
    [fixed]      key = value               the same in every cell
    [axes]       key = [a, b]              every combination with the other axes; "range(10)" and "logspace(a, b, n)"
                 "key+key" = [a, b]        one axis that sets both keys alike
    [[zip]]      key = [..], key = [..]    lists of one length that move together
    [random]     key = "loguniform(a, b)"  with draws = 20 and seed = 0: drawn once, crossed with the axes
    [[when]]     if = {key = value}, set = {key = value}        for the cells that match (a list means any of)
    [derive]     key = "1280 // tasks"     arithmetic on what the cell already has (see `arithmetic`)
    [[exclude]]  key = value               drops the cells that match

A key is a dotted field of `mtrl.config.Config`, or `system`, one of `mtrl.systems`. Any other key without a dot is a
variable of the grid alone: `when` and `derive` may use it, and it becomes a coordinate.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtrl.config import Config, ConfigError
from mtrl.names import nearest
from mtrl.overrides import build_config, check_key, expand_system, explain, parse_value
from mtrl.tasks import resolve_tasks
from sweeps.arithmetic import evaluate

FOLDER = Path(__file__).resolve().parent / "grids"
TASKS = "env.tasks"
SYSTEM = "system"
WIDTHS = ("actor width", "critic width")
MOST_CELLS = 1_000_000


class GridError(ValueError):
    """A grid that cannot be expanded; the message names the grid, the key and the cure."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. `coordinates` has the values of the varied keys, in the order of the grid."""

    config: Config
    coordinates: dict[str, Any]
    recorded: str = (
        ""  # the run id in the sweep's manifest, where an earlier version of mtrl gave another one
    )

    @property
    def run_id(self) -> str:
        """The run id under which the sweep has this cell."""
        return self.recorded or self.config.run_id

    @property
    def label(self) -> str:
        """A short, readable name: `MT10 width 32 seed 0`."""
        named = {short_key(key): value for key, value in self.coordinates.items()}
        if len({named.get(key) for key in WIDTHS}) == 1 and WIDTHS[0] in named:
            named = {key.removeprefix("actor "): value for key, value in named.items() if key != WIDTHS[1]}
        words = [_task_label(value) if key == "tasks" else f"{key} {value}" for key, value in named.items()]
        return " ".join(words) or self.config.benchmark


class When(BaseModel):
    """A rule of a grid: cells that match `condition` get the values of `set`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    condition: dict[str, Any] = Field(alias="if")
    set: dict[str, Any]


class Grid(BaseModel):
    """The content of a grid's TOML file; this module's docstring describes the parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    about: str = ""
    preset: str = "paper"
    fixed: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    zip: list[dict[str, list[Any]]] = []
    random: dict[str, Any] = {}
    when: list[When] = []
    derive: dict[str, str] = {}
    exclude: list[dict[str, Any]] = []


def grid_names() -> list[str]:
    """The names of the grids that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_grid(name: str) -> Grid:
    """The grid of that name, or of that file if `name` ends in .toml. Raises GridError if it is missing or wrong."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in grid_names():
        raise GridError(
            f"no grid '{name}'{nearest(name, grid_names())}; there are: {', '.join(grid_names())}"
        )
    try:
        return read_grid(path.stem, tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise GridError(f"no file {path}; name a grid ({', '.join(grid_names())}) or a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise GridError(f"{path} is not TOML: {error}") from None


def read_grid(name: str, content: Mapping[str, Any]) -> Grid:
    """A grid from the content of a TOML file. Raises GridError for an unknown part."""
    for part in content:
        if part not in Grid.model_fields or part == "name":
            raise GridError(f"grid '{name}' has an unknown part '{part}'{nearest(part, Grid.model_fields)}")
    columns = [{key: _values(key, value) for key, value in group.items()} for group in content.get("zip", [])]
    axes = {key: _values(key, value) for key, value in content.get("axes", {}).items()}
    try:
        return Grid.model_validate({**content, "name": name, "zip": columns, "axes": axes})
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise GridError(f"grid '{name}', {place}: {problem['msg']}") from None


def grid_keys(grid: Grid) -> list[str]:
    """The keys that the grid sets, and that `~key` can remove."""
    return list(dict.fromkeys(key for place in _places(grid) for key in _keys(place)))


def override(grid: Grid, words: Iterable[str]) -> Grid:
    """`grid` changed by each of `words` in turn: `key=value`, `key=a,b,c`, `key=range(3)`, `key+key=a,b` or `~key`.

    Raises GridError for an unknown key or a word of another form.
    """
    for word in words:
        key, equals, text = (part.strip() for part in word.removeprefix("~").partition("="))
        if word.startswith("~"):
            if not any(key in _keys(place) for place in _places(grid)):
                raise GridError(f"grid '{grid.name}' does not set '{key}', so ~{key} removes nothing")
            grid = _without(grid, key)
            continue
        if not equals:
            raise GridError(f"'{word}' is not an override; write key=value, as in network.actor.width=64")
        values = parse_values(text)
        for name in key.split("+"):
            _check(grid, name)
            grid = _without(grid, name)
        part = "fixed" if len(values) == 1 and "+" not in key else "axes"
        value = values[0] if part == "fixed" else values
        grid = grid.model_copy(update={part: {**getattr(grid, part), key: value}})
    return grid


def expand(grid: Grid) -> list[Cell]:
    """The cells of `grid` in order; equal configurations appear once. Raises GridError, which names grid and key."""
    for place in _places(grid):
        for key in _keys(place):
            _check(grid, key)
    for part in ("derive", "random"):
        for key in getattr(grid, part):
            if "+" in key:
                raise GridError(f"grid '{grid.name}', {part}: '{key}' must name one key")
    combinations(grid)
    cells: dict[str, Cell] = {}
    sections: dict[str, Any] = {}
    for chosen in _combinations(grid):
        values = _split_joined({**grid.fixed, **chosen})
        for rule in grid.when:
            if _matches(values, rule.condition):
                values |= rule.set
        for key, expression in grid.derive.items():
            values[key] = _derive(grid, key, expression, values)
        if any(_matches(values, rule) for rule in grid.exclude):
            continue
        cell = Cell(_build(grid, values, sections), _coordinates(grid, chosen, values))
        cells.setdefault(cell.run_id, cell)
    if not cells:
        raise GridError(f"grid '{grid.name}' has no cells left; look at its exclude rules")
    return list(cells.values())


def parse_values(text: str) -> list[Any]:
    """[a, b, c] from `a,b,c` (commas inside brackets or quotes do not count), `range(3)` or `logspace(1, 100, 3)`."""
    if sequence := _sequence(text):
        return sequence
    parts = re.findall(r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^,])+""", text)
    return [parse_value(part.strip()) for part in parts] or [""]


def _values(key: str, value: Any) -> list[Any]:
    if isinstance(value, str) and (sequence := _sequence(value)):
        return sequence
    if not isinstance(value, list):
        raise GridError(f"axis '{key}' must be a list, range(...) or logspace(...), not {value!r}")
    return value


def _sequence(text: str) -> list[Any]:
    """The numbers of `range(start, stop, step)` or `logspace(low, high, count)`; empty for any other text."""
    match = re.fullmatch(r"(range|logspace)\(([^()]*)\)", text.strip())
    if not match:
        return []
    try:
        numbers = [float(number) for number in match[2].split(",")]
        if match[1] == "range":
            whole = range(*(int(number) for number in numbers))
            _check_size(text, len(whole))
            values: list[Any] = list(whole)
        else:
            low, high, count = numbers[0], numbers[1], int(numbers[2])
            _check_size(text, count)
            step = math.log(high / low) / max(count - 1, 1)
            values = [float(f"{low * math.exp(step * index):.6g}") for index in range(count)]
    except GridError:
        raise
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
        raise GridError(
            f"'{text}' is not range(stop), range(start, stop[, step]) or logspace(low, high, count)"
        ) from None
    if not values:
        raise GridError(f"'{text}' is empty")
    return values


def _check_size(what: str, count: int) -> None:
    if count > MOST_CELLS:
        raise GridError(f"'{what}' has {count:,} values; a grid has at most {MOST_CELLS:,} cells")


def combinations(grid: Grid) -> int:
    """How many cells the grid has before its exclude rules. Raises GridError above MOST_CELLS."""
    lengths = [len(values) for values in grid.axes.values()]
    lengths += [max(map(len, group.values()), default=1) for group in grid.zip]
    count = math.prod(lengths) * (grid.random.get("draws", 1) if grid.random else 1)
    if count > MOST_CELLS:
        raise GridError(
            f"grid '{grid.name}' has {count:,} cells; a grid has at most {MOST_CELLS:,}: split it"
        )
    return int(count)


def _combinations(grid: Grid) -> Iterator[dict[str, Any]]:
    """Every choice of one value per axis: axes first, then zips, then random draws, the last varying fastest."""
    factors = [[{key: value} for value in values] for key, values in grid.axes.items()]
    for group in grid.zip:
        if len({len(values) for values in group.values()}) > 1:
            lengths = ", ".join(f"{key} {len(values)}" for key, values in group.items())
            raise GridError(f"grid '{grid.name}', zip: lists must have one length, not {lengths}")
        factors.append([dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)])
    if grid.random:
        factors.append(_draws(grid))
    for parts in itertools.product(*factors):
        yield {key: value for part in parts for key, value in part.items()}


def _draws(grid: Grid) -> list[dict[str, Any]]:
    """The random draws. Each depends only on (seed, key, number), so a longer list begins with the shorter one."""
    settings = {key: value for key, value in grid.random.items() if key not in ("draws", "seed")}
    count, seed = grid.random.get("draws", 1), grid.random.get("seed", 0)
    return [
        {
            key: _draw(grid, key, text, random.Random(f"{seed}/{key}/{number}"))
            for key, text in settings.items()
        }
        for number in range(count)
    ]


def _draw(grid: Grid, key: str, text: Any, generator: random.Random) -> Any:
    kinds: dict[str, Callable[..., Any]] = {
        "uniform": generator.uniform,
        "loguniform": lambda low, high: math.exp(generator.uniform(math.log(low), math.log(high))),
        "integer": lambda low, high: generator.randint(int(low), int(high)),
        "choice": lambda *options: generator.choice(options),
    }
    match = re.fullmatch(r"(\w+)\((.*)\)", str(text))
    if not match or match[1] not in kinds:
        known = ", ".join(f"{kind}(...)" for kind in kinds)
        raise GridError(f"grid '{grid.name}', random.{key}: {text!r} is none of {known}")
    try:
        value = kinds[match[1]](*parse_values(match[2]))
    except (TypeError, ValueError) as error:
        raise GridError(f"grid '{grid.name}', random.{key}: {text!r}: {error}") from None
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _derive(grid: Grid, key: str, expression: str, values: Mapping[str, Any]) -> Any:
    base = _preset(grid.preset)
    tasks = values.get(TASKS, base.env.tasks)
    names = {name.replace(".", "_"): value for name, value in values.items()}
    names |= {"tasks": len(resolve_tasks(tasks))}
    try:
        return evaluate(expression, names)
    except ValueError as error:
        raise GridError(f"grid '{grid.name}', derive.{key}: {error}") from None


@lru_cache
def _preset(name: str) -> Config:
    return build_config(name)


def _build(grid: Grid, values: Mapping[str, Any], sections: dict[str, Any]) -> Config:
    """The validated configuration.

    `sections` keeps the sections made so far: they are frozen, so cells with an equal section share it, and a grid of
    thousands of cells validates each distinct section once.
    """
    settings: dict[str, dict[str, Any]] = {}
    try:
        settled = expand_system(values, grid.preset)
    except ConfigError as error:
        raise GridError(f"grid '{grid.name}': {error}") from None
    for key, value in settled.items():
        if "." in key:
            settings.setdefault(key.partition(".")[0], {})[key] = value
    parts = {name: getattr(_preset(grid.preset), name) for name in Config.model_fields}
    for name, given in settings.items():
        identity = f"{name} {given}"
        if identity not in sections:
            try:
                sections[identity] = getattr(build_config(grid.preset, given), name)
            except ConfigError as error:
                raise GridError(f"grid '{grid.name}': {error}") from None
        parts[name] = sections[identity]
    try:
        return Config(**parts)
    except ValidationError as error:
        raise GridError(f"grid '{grid.name}': {explain(error)}") from None


def _split_joined(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for key, value in values.items() for name in key.split("+")}


def _coordinates(grid: Grid, chosen: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for key in chosen for name in key.split("+")]
    return {name: values[name] for name in [*names, *(key for key in grid.derive if key not in names)]}


def _matches(values: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    return all(
        values.get(key) in (wanted if isinstance(wanted, list) else [wanted]) for key, wanted in rule.items()
    )


def _places(grid: Grid) -> list[Mapping[str, Any]]:
    """Every mapping of the grid whose keys are fields of a configuration or variables."""
    drawn = {key: value for key, value in grid.random.items() if key not in ("draws", "seed")}
    rules = [part for rule in grid.when for part in (rule.condition, rule.set)]
    return [grid.fixed, grid.axes, *grid.zip, drawn, *rules, grid.derive, *grid.exclude]


def _keys(place: Mapping[str, Any]) -> list[str]:
    return [name for key in place for name in key.split("+")]


def _check(grid: Grid, key: str) -> None:
    """Raises GridError unless `key` is a field of a configuration or a variable of this grid."""
    variables = [
        name for place in (grid.axes, *grid.zip, grid.random) for name in _keys(place) if "." not in name
    ]
    if key == SYSTEM or key in variables:
        return
    try:
        check_key(key)
    except ConfigError as error:
        raise GridError(f"grid '{grid.name}': {error}") from None


def _without(grid: Grid, key: str) -> Grid:
    """`grid` without `key`: joined keys keep their other half, and rules no longer set it."""

    def drop(place: Mapping[str, Any]) -> dict[str, Any]:
        kept = {
            "+".join(name for name in joined.split("+") if name != key): value
            for joined, value in place.items()
        }
        return {joined: value for joined, value in kept.items() if joined}

    return grid.model_copy(
        update={
            "fixed": drop(grid.fixed),
            "axes": drop(grid.axes),
            "zip": [left for group in grid.zip if (left := drop(group))],
            "random": drop(grid.random),
            "when": [rule.model_copy(update={"set": drop(rule.set)}) for rule in grid.when],
            "derive": drop(grid.derive),
        }
    )


def short_key(key: str) -> str:
    """A key as labels show it: `actor width` for `network.actor.width`."""
    return key.removeprefix("network.").removeprefix("env.").removeprefix("train.").replace(".", " ")


def _task_label(tasks: str | list[str]) -> str:
    return tasks if isinstance(tasks, str) else "+".join(tasks)
