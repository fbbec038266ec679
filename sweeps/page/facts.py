"""The content of a sweep's page, as plain data: from the manifest, the cells' files, the run files and the queue."""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mtrl.sizing import count_parameters
from slurm.profiles import Profile
from slurm.records import last_profile, read_records
from slurm.retry import blamed_nodes
from slurm.state import CellState, cell_directory, parse_lines
from slurm.survey import Survey
from sweeps.cost import estimate_cost
from sweeps.grid import short_key
from sweeps.manifest import Entry
from sweeps.page.curves import Curve, read_curves
from sweeps.time_left import Times, but_seed, time_left, without_seeds

STATES = ("running", "pending", "held", "failed", "stopped", "cancelled", "missing", "diverged", "done")
TROUBLE = ("failed", "held")  # states that need a person
# Categories of invisible characters, and of those that change the direction of text.
UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
CAP = re.compile(r"--max-gpu-hours[ =](\d+(?:\.\d+)?)")  # in the command of a launch
SHOWN = 20  # kinds of trouble
LOG_BYTES = 4_000
LOG_LINES = 15
LONGEST = 300  # characters of a reason or of a line of a log
WATTS = {"GPU": 400, "core": 10}  # assumed, with the device's share of the node


@dataclass(frozen=True)
class Variant:
    """All seeds of one configuration."""

    label: str
    benchmark: str
    tasks: int
    seconds: float  # estimated, of one run
    parameters: int
    episodes: int  # of each task in an evaluation
    runs: int
    env_steps: tuple[int, ...]  # at each planned evaluation, summed over tasks


@dataclass(frozen=True)
class Row:
    """One cell in the table."""

    run_id: str
    values: tuple[str, ...]  # of the varied keys
    state: str
    progress: float  # share of the vector steps
    success: float | None
    node: str
    heard: float | None  # seconds since the last heartbeat
    reason: str
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Trouble:
    """The cells of one state and one reason, with the end of the first one's log."""

    state: str
    reason: str
    rows: list[Row]
    log: str


@dataclass(frozen=True)
class Node:
    """A node that runs cells, on which cells failed, or that new jobs avoid."""

    name: str
    running: int
    failed: int
    left_out: bool  # new jobs are not sent there


@dataclass(frozen=True)
class Facts:
    """The content of a sweep's page."""

    sweep: Path
    written: float  # seconds since 1970
    counts: dict[str, int]  # state -> cells, in the order of STATES
    keys: tuple[str, ...]  # short names of the varied keys
    rows: list[Row]
    troubles: list[Trouble]  # the commonest first
    variants: list[tuple[Variant, list[Curve]]]
    random: dict[str, float]  # benchmark -> success of the random policy
    ended: list[float]  # when cells were over, sorted
    hours: tuple[float, float, float, float]  # used; left: low, likely, high
    measured: bool  # whether finished cells correct the estimate
    ends: Times | None  # seconds since 1970: low, likely, high; None: nothing runs
    device: str  # GPU or core
    cap: float | None  # of --max-gpu-hours at the last launch
    nodes: list[Node]
    asked: bool  # whether Slurm answered; true for a sweep without jobs

    @cached_property
    def over(self) -> int:
        """How many cells are over: done or diverged."""
        return self.counts.get("done", 0) + self.counts.get("diverged", 0)

    @cached_property
    def unfinished(self) -> int:
        """How many cells are not over."""
        return len(self.rows) - self.over

    def ended_within(self, seconds: float) -> int:
        """How many cells ended in the last `seconds`."""
        return sum(self.written - moment <= seconds for moment in self.ended)

    @property
    def watts(self) -> int:
        """The power of one device."""
        return WATTS[self.device]

    @property
    def energy(self) -> tuple[float, float]:
        """kWh used so far, and the likely total."""
        kilowatts = self.watts / 1000
        return self.hours[0] * kilowatts, (self.hours[0] + self.hours[2]) * kilowatts


def read_facts(sweep: Path, entries: Sequence[Entry], found: Survey, now: float | None = None) -> Facts:
    """The content of the page. Reads run files that changed since the last look; `found` is a look at the sweep."""
    now = time.time() if now is None else now
    cells = [found.cells[entry.run_id] for entry in entries]
    begun = {cell.run_id: cell.finished for cell in cells if cell.finished or cell.heartbeat or cell.marker}
    curves = read_curves(sweep, begun, memory=sweep / "page" / "curves.json")
    profile = last_profile(sweep)
    variants = _variants(entries, gpu=bool(profile and profile.gpus))
    counts: Counter[str] = Counter(cell.state for cell in cells)
    keys = list(dict.fromkeys(key for entry in entries for key in entry.coordinates))
    grouped: dict[int, list[Curve]] = defaultdict(list)
    for entry in entries:
        if entry.run_id in curves:
            grouped[id(variants[entry.run_id])].append(curves[entry.run_id])
    distinct = list({id(variant): variant for variant in variants.values()}.values())
    left = time_left(cells, {run_id: variant.seconds for run_id, variant in variants.items()}, profile)
    rows = [
        _row(entry, cell, curves.get(entry.run_id), keys, now)
        for entry, cell in zip(entries, cells, strict=True)
    ]
    return Facts(
        sweep=sweep,
        written=now,
        counts={state: counts[state] for state in STATES if counts[state]},
        keys=tuple(map(short_key, keys)),
        rows=rows,
        troubles=_troubles(sweep, rows),
        variants=[(variant, grouped[id(variant)]) for variant in distinct],
        random=_random_policies(sweep, entries, variants, curves),
        ended=sorted(curve.ended for curve in curves.values() if curve.ended),
        hours=(left.used, *left.hours),
        measured=left.measured,
        ends=_moments(left.seconds, now),
        device="GPU" if profile and profile.gpus else "core",
        cap=_cap(sweep),
        nodes=_nodes(sweep, cells, profile),
        asked=found.queue is not None or profile is None,
    )


def _variants(entries: Sequence[Entry], *, gpu: bool) -> dict[str, Variant]:
    """{run id: variant}. A variant has the parameters and the cost of its first cell; other seeds have the same."""
    variants = {}
    for some in without_seeds(entries):
        variant = _variant(some[0], len(some), gpu)
        variants.update(dict.fromkeys((entry.run_id for entry in some), variant))
    return variants


def _variant(entry: Entry, runs: int, gpu: bool) -> Variant:
    cell = replace(entry.cell, coordinates=but_seed(entry.coordinates))
    config = cell.config
    tasks = len(config.env.tasks)
    steps = config.evaluate.steps(config.train.vector_steps)
    return Variant(
        label=clean(cell.label),
        benchmark=clean(config.benchmark),
        tasks=tasks,
        seconds=estimate_cost(config, gpu=gpu).seconds,
        parameters=count_parameters(config).total,
        episodes=config.evaluate.episodes,
        runs=runs,
        env_steps=tuple(step * tasks for step in steps),
    )


def _row(entry: Entry, cell: CellState, curve: Curve | None, keys: Sequence[str], now: float) -> Row:
    beat = cell.heartbeat
    steps, total = beat.get("vector_step") or 0, beat.get("vector_steps") or 0
    heard = beat.get("time")
    success = beat.get("success")
    if curve and curve.success:
        success = curve.success[-1]
    return Row(
        run_id=entry.run_id,
        values=tuple(clean(_value(entry.coordinates.get(key, ""))) for key in keys),
        state=cell.state,
        progress=1.0 if cell.finished else min(1.0, steps / total) if total else 0.0,
        success=success,
        node=clean(str(beat.get("host") or "")),
        heard=max(0.0, now - heard) if heard and not cell.finished else None,
        reason=clean(cell.reason),
        curve=curve.success if curve else (),
    )


def _value(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _troubles(sweep: Path, rows: Sequence[Row]) -> list[Trouble]:
    kinds: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.state in TROUBLE:
            kinds[row.state, row.reason].append(row)
    common = sorted(kinds.items(), key=lambda item: (TROUBLE.index(item[0][0]), -len(item[1])))[:SHOWN]
    return [
        Trouble(state, reason, some, end_of_log(cell_directory(sweep, some[0].run_id) / "log.txt"))
        for (state, reason), some in common
    ]


def end_of_log(path: Path) -> str:
    """The last lines of a log, from its last LOG_BYTES bytes; bytes that are no text become a visible sign."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(clean(line) for line in text.splitlines()[-LOG_LINES:])


def clean(text: str, longest: int = LONGEST) -> str:
    """`text` on one line: control characters become a visible sign, and it is cut to `longest` characters."""
    if len(text) <= longest and text.isprintable():
        return text
    shown = "".join(map(_shown, text[: longest + 1]))
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def _shown(character: str) -> str:
    if character in "\t\r\n":
        return " "
    return "\ufffd" if unicodedata.category(character) in UNSHOWN else character


def _moments(seconds: Times | None, now: float) -> Times | None:
    if seconds is None:
        return None
    low, likely, high = seconds
    return now + low, now + likely, now + high


def _random_policies(
    sweep: Path, entries: Sequence[Entry], variants: Mapping[str, Variant], curves: Mapping[str, Curve]
) -> dict[str, float]:
    """{benchmark: success of the random policy}, from the first run of each benchmark."""
    from analysis.success import read_random_success

    found: dict[str, float] = {}
    for entry in entries:
        benchmark = variants[entry.run_id].benchmark
        if benchmark not in found and entry.run_id in curves:
            with suppress(OSError, ValueError):  # damaged meanwhile; another run of the benchmark has it too
                found[benchmark] = read_random_success(cell_directory(sweep, entry.run_id) / "run.h5")
    return found


def _cap(sweep: Path) -> float | None:
    """The --max-gpu-hours of the latest launch that had one."""
    try:
        lines = (sweep / "launches.jsonl").read_bytes().splitlines()
    except OSError:
        return None
    launches = [launch for launch in parse_lines(lines) if isinstance(launch, dict)]
    found = (CAP.search(str(launch.get("command"))) for launch in reversed(launches))
    return next((float(match[1]) for match in found if match), None)


def _nodes(sweep: Path, cells: Sequence[CellState], profile: Profile | None) -> list[Node]:
    running = Counter(str(cell.heartbeat.get("host", "")) for cell in cells if cell.state == "running")
    failed = Counter(str(cell.heartbeat.get("host", "")) for cell in cells if cell.state == "failed")
    histories = [task.history for record in read_records(sweep) for tasks in record.tasks for task in tasks]
    out = {*blamed_nodes(histories), *(profile.exclude if profile else ())}
    names = sorted({*running, *failed, *out} - {""}, key=_natural)
    return [Node(clean(name), running[name], failed[name], name in out) for name in names]


def _natural(name: str) -> list[str | int]:
    """A sort key that puts node2 before node10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]
