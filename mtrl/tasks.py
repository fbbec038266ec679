"""Meta-World's tasks by name: the benchmarks, their order, and how an observation is laid out.

The names are written here so that a dry run need not import Meta-World; a test compares them with Meta-World's own.
"""

from __future__ import annotations

from collections.abc import Iterable

from mtrl.names import nearest

OBSERVATION_SIZE = 39  # current frame 18, previous frame 18, goal 3; no one-hot
FRAME_SIZE = 18
ACTION_SIZE = 4

_MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)

_MT25 = (
    *_MT10,
    "coffee-pull-v3",
    "pick-out-of-hole-v3",
    "disassemble-v3",
    "pick-place-wall-v3",
    "basketball-v3",
    "stick-pull-v3",
    "button-press-wall-v3",
    "faucet-open-v3",
    "door-lock-v3",
    "lever-pull-v3",
    "sweep-into-v3",
    "faucet-close-v3",
    "coffee-button-v3",
    "button-press-topdown-wall-v3",
    "dial-turn-v3",
)

_MT50 = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "hand-insert-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-open-v3",
    "faucet-close-v3",
    "hammer-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "pick-place-wall-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "plate-slide-v3",
    "plate-slide-side-v3",
    "plate-slide-back-v3",
    "plate-slide-back-side-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "soccer-v3",
    "stick-push-v3",
    "stick-pull-v3",
    "push-v3",
    "push-wall-v3",
    "push-back-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-open-v3",
    "window-close-v3",
)

BENCHMARKS: dict[str, tuple[str, ...]] = {"MT10": _MT10, "MT25": _MT25, "MT50": _MT50}
ALL_TASKS = _MT50


# With reward_version=v1 Meta-World 3.1.1 never reports success for these (its issue 571). Found with its scripted
# policies: 0 of 4 episodes each; with v2 4, 3 and 4.
NO_SUCCESS_WITH_V1 = ("hand-insert-v3", "peg-insert-side-v3", "stick-push-v3")


def resolve_tasks(spec: str | Iterable[str]) -> tuple[str, ...]:
    """Task names in order, from a benchmark's name, one task's name, names joined by `+`, or a list of names.

    Raises ValueError naming an unknown task and the nearest known names.
    """
    if isinstance(spec, str):
        if spec in BENCHMARKS:
            return BENCHMARKS[spec]
        if "," in spec:
            joined = "+".join(part.strip() for part in spec.split(","))
            raise ValueError(f"'{spec}': join the names of tasks by '+': {joined}")
        spec = spec.split("+")
    tasks = tuple(spec)
    if not tasks:
        raise ValueError("no tasks given; name a benchmark (MT10, MT25, MT50) or a list of tasks")
    for task in tasks:
        if task not in ALL_TASKS:
            raise ValueError(
                f"no task '{task}' in Meta-World v3{nearest(str(task), [*ALL_TASKS, *BENCHMARKS])}"
            )
    return tasks


def benchmark_name(tasks: tuple[str, ...]) -> str:
    """The benchmark with exactly these tasks in this order, else their names joined by `+`."""
    return next((name for name, known in BENCHMARKS.items() if known == tasks), "+".join(tasks))
