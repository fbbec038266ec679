"""The approval of a launch: the cap on its hours, and a question before many hours."""

from __future__ import annotations

import importlib

from sweeps.plan import Plan
from sweeps.question import confirm
from sweeps.request import Request

ASK_ABOVE_HOURS = 100.0


def approve(plan: Plan, max_hours: float | None, *, yes: bool = False, without_kernels: bool = False) -> None:
    """Asks before a launch of more than ASK_ABOVE_HOURS hours. Raises ValueError if the launch is refused.

    Refused are: a plan above `max_hours`; GPU jobs of a build without CUDA kernels, unless `without_kernels`; a launch
    that must ask but has no terminal, unless `yes`.
    """
    if not without_kernels and (slow := why_slow_on_gpus(plan.request)):
        raise ValueError(slow)
    hours = f"about {plan.hours[1]:,.0f} {plan.hours_of} hours"
    if max_hours is not None and plan.hours[1] > max_hours:
        raise ValueError(
            f"{hours} are more than --max-gpu-hours {max_hours:,.0f}; take a smaller grid or raise the cap"
        )
    if plan.hours[1] > ASK_ABOVE_HOURS:
        confirm(f"This takes {hours} {_place(plan)}.", yes=yes)


def why_slow_on_gpus(request: Request) -> str:
    """Why the request's GPU jobs would train with plain torch, many times slower, though it did not ask for that.

    Empty if they would not, or if they run another Python than this one.
    """
    profile = request.profile
    if not (profile and profile.gpus) or profile.python or profile.container:
        return ""
    configs = [cell.config for cell in request.cells]
    if all(config.agent.backend == "torch" or config.run.device == "cpu" for config in configs):
        return ""
    if importlib.import_module("mtrl._core").cuda_build() is not None:
        return ""
    return (
        f"profile '{profile.name}' asks for GPUs, and mtrl was built here without CUDA kernels: its jobs would run on "
        "plain torch. Build them with `make build CUDA=1`, or say --without-kernels"
    )


def _place(plan: Plan) -> str:
    return "on the cluster" if plan.request.executor == "slurm" else "on this machine"
