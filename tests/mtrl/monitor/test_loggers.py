"""TensorBoard and Weights & Biases, offline, against the run file: every evaluation once, also after a kill."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.config import Config, ConfigError
from mtrl.overrides import build_config
from mtrl.results import CLOCKS, read_run
from mtrl.train import Progress, train
from tests.mtrl.short_runs import contents, short_config, stop_after

Rows = dict[int, dict[str, float]]  # step -> name -> value


def events(run: Path, config: Config) -> Rows:
    """Everything in the event files, with nothing purged."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    found = EventAccumulator(
        str(run / "tensorboard"), size_guidance={SCALARS: 0}, purge_orphaned_data=False
    ).Reload()
    rows: Rows = {}
    for name in found.Tags()["scalars"]:
        for event in found.Scalars(name):
            assert name not in rows.setdefault(event.step, {}), f"{name} of step {event.step} twice"
            rows[event.step][name] = event.value
    return rows


def offline_run(run: Path, config: Config) -> Rows:
    """The history in the one offline folder of the run, as `wandb sync` would read it."""
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    (folder,) = (run / "wandb").glob("offline-run-*")
    assert folder.name.endswith(config.run_id)
    rows: Rows = {}
    for record in map(Record.FromString, records((folder / f"run-{config.run_id}.wandb").read_bytes())):
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if values:
            step = record.history.step.num
            assert step not in rows, f"step {step} twice"
            rows[step] = {name: value for name, value in values.items() if not name.startswith("_")}
    return rows


def records(log: bytes) -> list[bytes]:
    """The records of a LevelDB log after W&B's header of 7 bytes: blocks of 32 KiB of (CRC, length, kind, part)."""
    whole, part, at = [], b"", 7
    while at < len(log):
        if 32768 - at % 32768 < 7:  # too little is left of the block for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        part += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all in one part, or the last of several
            whole.append(part)
            part = b""
    return whole


@pytest.mark.parametrize(("logger", "read"), [("tensorboard", events), ("wandb", offline_run)])
def test_a_run_that_was_killed_has_every_evaluation_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str, read: Callable[[Path, Config], Rows]
) -> None:
    pytest.importorskip(
        logger, reason=f"{logger} is not installed: pip install -r tests/requirements-loggers.txt"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = short_config(run__loggers=logger)
    seen: list[Progress] = []

    def kill(progress: Progress) -> None:
        # the evaluations of 40 and 80 are logged, the checkpoint is of step 41
        if progress.vector_step == 85:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    train(config, run, stop=lambda: stop_after(seen, 41), report=seen.append)
    with pytest.raises(KeyboardInterrupt):
        train(config, run, report=kill)
    assert sorted(read(run, config)) == [80, 160]
    assert train(config, run) == "done"
    rows, file = read(run, config), read_run(run / "run.h5")
    assert sorted(rows) == file.env_steps.tolist() == [80, 160, 180]
    for i, step in enumerate(file.env_steps):
        expected = {
            f"update/{name}": value for name, value in zip(file.run_metrics, file.per_run[i], strict=True)
        }
        expected |= {f"clock/{name}": value for name, value in zip(CLOCKS, file.timing[i], strict=True)}
        for metric, of_task in zip(file.metrics, file.per_task[i], strict=True):
            names = [*file.tasks, "mean"]
            expected |= {f"{metric}/{n}": v for n, v in zip(names, [*of_task, of_task.mean()], strict=True)}
        expected = {name: value for name, value in expected.items() if not np.isnan(value)}
        assert rows[step] == pytest.approx(expected, rel=1e-5)  # float32 here or there

    assert train(short_config(), tmp_path / "silent") == "done"
    assert contents(run / "run.h5") == contents(tmp_path / "silent/run.h5")


@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_what_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    for name in [name for name in sys.modules if name.startswith((logger, "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, logger, None)
    with pytest.raises(ConfigError, match=rf"has {logger}, .* pip install 'mtrl-scaling\[{logger}\]'"):
        train(short_config(run__loggers=logger), tmp_path)
    assert not list(tmp_path.iterdir())


def test_loggers_are_named_in_run_and_change_no_run_id() -> None:
    both: Any = build_config("debug", {"run.loggers": "tensorboard+wandb"})
    assert both.run.loggers == ("tensorboard", "wandb")
    assert (
        both.run_id
        == build_config("debug", {"run.loggers": ["wandb"]}).run_id
        == build_config("debug").run_id
    )
    with pytest.raises(ConfigError, match=r"run\.loggers\.0 = 'tensorbord'"):
        build_config("debug", {"run.loggers": "tensorbord"})
