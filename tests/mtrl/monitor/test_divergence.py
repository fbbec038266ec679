"""Divergence: what counts as it, that it is noticed with its cause, and that a run is over then."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mtrl.agent import Update
from mtrl.monitor.divergence import find_divergence
from mtrl.monitor.plasticity import measure
from mtrl.overrides import build_config
from mtrl.results import Divergence, RunFileError, read_run
from mtrl.run import Run
from mtrl.train import Progress, train
from tests.mtrl.agents import make_agent, make_batch
from tests.mtrl.short_runs import contents, short_config, stop_after

LIMITS = {"q": 100.0, "loss": 10.0}
WEAK = {"divergence__q_limit": 1e-4, "divergence__loss_limit": 1e6}  # below what an untrained critic says


@pytest.mark.parametrize(
    ("metrics", "sign"),
    [
        ({"q_mean": 100.0, "critic_loss": -10.0, "critic_gradient_norm": 1e30}, None),
        ({"q_mean": -100.1}, ("q_mean", -100.1, 100.0)),
        ({"q_max": 101.0}, ("q_max", 101.0, 100.0)),
        ({"actor_loss": -11.0, "q_mean": 200.0}, ("actor_loss", -11.0, 10.0)),
        ({"q_mean": 200.0, "temperature_loss": math.inf}, ("temperature_loss", math.inf, 10.0)),
        ({"critic_gradient_norm": math.inf}, ("critic_gradient_norm", math.inf, math.inf)),
    ],
)
def test_what_counts_as_divergence(metrics: dict[str, float], sign: tuple[str, float, float] | None) -> None:
    assert find_divergence(7, metrics, LIMITS) == (sign and Divergence(7, *sign))


def test_nan_counts_whatever_its_name() -> None:
    found = find_divergence(7, {"action": math.nan}, LIMITS)
    assert found is not None
    assert math.isnan(found.value)
    assert str(found) == "diverged at vector step 7: action was nan, not finite"


def test_default_limits_follow_the_discount() -> None:
    """Ten times 10 a step for ever, and for the squared error a target that wrong on every row."""
    assert build_config().divergence_limits == pytest.approx({"q": 1e4, "loss": 1e8})
    far = build_config("paper", {"agent.discount": 0.999, "divergence.loss_limit": 5.0})
    assert far.divergence_limits == pytest.approx({"q": 1e5, "loss": 5.0})


def test_a_limit_ends_the_run_at_that_update_and_is_kept_with_its_cause(tmp_path: Path) -> None:
    assert train(short_config(**WEAK), tmp_path) == "diverged"
    run = read_run(tmp_path / "run.h5")
    assert run.divergence is not None
    assert run.divergence[:2] == (31, "q_mean")  # the first update comes after 30 random steps
    assert abs(run.divergence.value) > run.divergence.limit == 1e-4
    assert not run.trained_on
    assert len(run.env_steps) == 0
    assert not (tmp_path / "agent.pt").exists()


def test_every_rows_q_is_looked_at_in_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task of many may explode while the mean stays small."""
    monkeypatch.setattr(Update, "metrics", {})
    assert train(short_config(**WEAK), tmp_path) == "diverged"
    run = read_run(tmp_path / "run.h5")
    assert run.divergence is not None
    assert run.divergence[:2] == (40, "q_max")
    assert run.divergence.value == pytest.approx(run.per_run[0, run.run_metrics.index("q_max")])


def test_a_run_may_train_on_and_is_the_same_run_but_for_the_mark(tmp_path: Path) -> None:
    on = short_config(**WEAK, divergence__action="continue")
    assert train(on, tmp_path / "on") == "diverged"
    assert train(short_config(), tmp_path / "healthy") == "done"
    marked, healthy = read_run(tmp_path / "on/run.h5"), read_run(tmp_path / "healthy/run.h5")
    np.testing.assert_array_equal(marked.per_run, healthy.per_run)
    assert marked.trained_on
    assert marked.divergence is not None
    assert marked.divergence.vector_step == 31
    assert healthy.divergence is None
    assert (tmp_path / "on/agent.pt").exists()

    seen: list[Progress] = []
    for stop_at in (20, 50):
        train(on, tmp_path / "resumed", stop=partial(stop_after, seen, stop_at), report=seen.append)
    assert train(on, tmp_path / "resumed") == "diverged"
    assert contents(tmp_path / "resumed/run.h5") == contents(tmp_path / "on/run.h5")


def test_checkpoints_of_earlier_versions_keep_the_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had it among the log's state."""
    on, seen = short_config(**WEAK, divergence__action="continue"), []

    def earlier(run: Run) -> dict[str, Any]:
        state = state_of(run)
        return state | {"log": state["log"] | state.pop("guard")}

    state_of = Run._state_dict
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_state_dict", earlier)
        train(on, tmp_path, stop=partial(stop_after, seen, 50), report=seen.append)
    assert train(on, tmp_path) == "diverged"
    divergence = read_run(tmp_path / "run.h5").divergence
    assert divergence is not None
    assert divergence.vector_step == 31


@pytest.mark.parametrize("action", ["stop", "continue"])
@pytest.mark.parametrize("random_steps", [39, 45])
def test_networks_that_cannot_act_end_the_run(tmp_path: Path, action: str, random_steps: int) -> None:
    """Finite metrics, then weights beyond all bounds: the next to see it is an evaluation (39), or an action (45)."""
    config = short_config(
        agent__actor_lr=1e38,
        agent__actor_clip=1e38,
        divergence__action=action,
        train__random_steps=random_steps,
    )
    assert train(config, tmp_path) == "diverged"
    run = read_run(tmp_path / "run.h5")
    assert run.divergence is not None
    expected = {39: (40, "evaluation_action"), 45: (46, "action")}[random_steps]
    assert run.divergence[:2] == expected
    assert not math.isfinite(run.divergence.value)
    assert not run.trained_on


def test_measuring_what_is_not_finite_is_no_fault() -> None:
    agent = make_agent()
    agent.critic_adam.value.fill_(math.nan)
    batch = make_batch(3, 4)
    measured = measure(agent, {"training": batch, "fixed": batch})
    found = find_divergence(1, measured.per_run, LIMITS)
    assert found is not None
    assert found.metric == "q_max"
    assert np.isnan(measured.arrays["per_layer"][:, 1]).all()


def test_a_run_that_is_over_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diverged or done: also after its marker was lost, which is when a sweep trains a cell again."""
    diverged, done = short_config(**WEAK), short_config()
    seen: list[Progress] = []
    train(diverged, tmp_path / "diverged", stop=partial(stop_after, seen, 5), report=seen.append)
    assert train(diverged, tmp_path / "diverged") == "diverged"
    train(done, tmp_path / "done")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr("mtrl.run.Agent", lambda *_, **__: pytest.fail("trained again"))
    assert train(diverged, tmp_path / "diverged") == "diverged"
    assert train(done, tmp_path / "done") == "done"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(RunFileError, match=r"agent\.discount is 0\.9, was 0\.99"):
        train(short_config(agent__discount=0.9), tmp_path / "done")


def test_files_from_before_the_cause_was_kept_are_read(tmp_path: Path) -> None:
    train(short_config(**WEAK), tmp_path)
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        for name in ("metric", "value", "limit", "trained_on"):
            del file.attrs[f"diverged_{name}"]
    run = read_run(tmp_path / "run.h5")
    assert str(run.divergence) == "diverged at vector step 31"
    assert not run.trained_on
