"""The paper's three claims, and what its own published numbers say about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis import paper
from analysis.comparisons import Comparison
from analysis.exact_tests import p_words
from analysis.report import Claim
from analysis.scaling_laws import Points
from analysis.slopes import Slopes, critic_minus_actor, slopes
from mtrl.config import NetworkSettings
from mtrl.sizing import actor_parameters, critic_parameters

RUNS = 10  # seeds behind each of the paper's points
EPISODES = 50  # per task and evaluation
CRITICS = 2
WORDS = {
    "soft_modularization": "soft modularization",
    "moore": "MOORE",
    "paco": "PaCo",
    "mtmhsac": "multi-head MLP",
}


def claims(compared: Sequence[Comparison], resolvable: float) -> list[Claim]:
    """The three claims with their answers. `resolvable` is the smallest difference that 10 seeds a side would show."""
    return [
        Claim(
            "Scale beats architecture at matched parameters",
            f"{_matched_seeds(compared)} {_matched_published(resolvable)}",
        ),
        Claim("The critic's width matters more than the actor's", _critic_first(resolvable)),
        Claim("Dormant neurons become fewer with more tasks", _dormancy()),
    ]


def _matched_seeds(compared: Sequence[Comparison]) -> str:
    """An answer from the comparisons whose single seeds are known."""
    matched = [c for c in compared if any(name in c.pair.worse for name in WORDS.values())]
    carried = [f"{c.pair.worse} ({c.found.estimate:+.3f}, {p_words(c.p)})" for c in matched if c.supported]
    open_ = [f"{c.pair.worse} ({c.found.estimate:+.3f}, {p_words(c.p)})" for c in matched if not c.supported]
    yes = f"At MT10 its seeds carry the claim against {_list(carried)}." if carried else ""
    no = f"They do not carry it against {_list(open_)}." if open_ else ""
    return f"{yes} {no}".strip()


def _matched_published(resolvable: float) -> str:
    """An answer from numbers published without seeds, compared with the difference that ten seeds could show."""
    rows = paper.by_benchmark("architectures")["MT50"]
    gaps = {
        WORDS[row["system"]]: float(row["matched_mlp_success_iqm"]) - float(row["success_iqm"])
        for row in rows
    }
    beyond = [f"{name} ({gap:+.3f})" for name, gap in gaps.items() if gap > resolvable]
    within = [f"{name} ({gap:+.3f})" for name, gap in gaps.items() if gap <= resolvable]
    return (
        f"At MT50 no seeds are published: the MLP's lead is larger than the {resolvable:.3f} that 10 seeds resolve at "
        f"the spread of MT10's for {_list(beyond) or 'none'}, and smaller for {_list(within) or 'none'}."
    )


def actor_critic_line() -> Slopes:
    """The elasticities from the paper's five pairs of actor and critic widths."""
    rows = paper.table("actor_critic_mt10")
    sizes = {
        "actor": [actor_parameters(_shape(row["actor_width"]), 10) for row in rows],
        "critic": [CRITICS * critic_parameters(_shape(row["critic_width"]), 10) for row in rows],
    }
    success = np.array([float(row["success_iqm"]) for row in rows])
    trials = np.full(len(rows), RUNS * EPISODES * 10)
    return slopes("elasticities", Points({k: np.array(v, float) for k, v in sizes.items()}, success, trials))


def _shape(width: str) -> NetworkSettings:
    return NetworkSettings(width=int(width))


def _critic_first(resolvable: float) -> str:
    success = {
        (int(row["actor_width"]), int(row["critic_width"])): float(row["success_iqm"])
        for row in paper.table("actor_critic_mt10")
    }
    full, actor, critic = success[1024, 1024], success[200, 1024], success[1024, 200]
    gap = critic_minus_actor(actor_critic_line())
    return (
        f"Five pairs of widths at MT10, no seeds published. Taking the critic from 1024 to 200 changes success by "
        f"{critic - full:+.3f}, {'beyond' if abs(critic - full) > resolvable else 'within'} the {resolvable:.3f} that "
        f"10 seeds resolve; taking the actor there changes it by {actor - full:+.3f}, "
        f"{'beyond' if abs(actor - full) > resolvable else 'within'} it. So the loss of a small critic is no luck. As "
        f"laws, five points {'settle' if gap.clear else 'do not settle'} it: the critic's elasticity is above "
        f"the actor's by {gap.value:.2f} (95% interval {gap.low:.2f} to {gap.high:.2f}). "
        "grid=actor_critic asks it with seeds."
    )


def _dormancy() -> str:
    shares = dormant_shares()
    changes = {width: few[50] / few[10] - 1 for width, few in shares.items()}
    each = ", ".join(f"{width}: {shares[width][10]:.1f}% to {shares[width][50]:.1f}%" for width in shares)
    falls = sum(change < 0 for change in changes.values())
    return (
        f"At equal width, from MT10 to MT50, the critic's dormant share falls at {falls} of {len(changes)} widths, by "
        f"{-max(changes.values()):.0%} to {-min(changes.values()):.0%} ({each}). But the batch grew with the tasks, "
        "from 1,280 to 6,400 transitions, and each share is of its own training batch: these numbers cannot tell more "
        "tasks from larger batches. grid=task_batch takes them apart, on one fixed batch."
    )


def dormant_shares() -> Mapping[int, Mapping[int, float]]:
    """{width: {tasks: per cent of the critic's neurons that are dormant}}."""
    found: dict[int, dict[int, float]] = {}
    for row in paper.table("success_by_width"):
        found.setdefault(int(row["width"]), {})[int(row["tasks"])] = float(row["dormant_percent"])
    return found


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
