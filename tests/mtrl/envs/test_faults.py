"""What dies or fails around the vector env is named, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mtrl.config import ConfigError, EnvSettings
from mtrl.envs import VectorEnv, WorkerDied
from mtrl.overrides import build_config
from mtrl.tasks import BENCHMARKS

TASKS = ("reach-v3", "drawer-close-v3", "push-v3")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def make(made):
    def make(tasks=TASKS, **options):
        config = EnvSettings(tasks=tasks, horizon=20, goals_per_task=2)
        made.append(VectorEnv(config, **{"seed": 3, "workers": 2, **options}))
        made[-1].reset()
        return made[-1]

    return make


def pids(env):
    return [worker.pid for worker in env._workers]


def run(env, steps, seed=0):
    generator = np.random.default_rng(seed)
    return [env.step(generator.uniform(-1, 1, (env.num_envs, 4)))[:2] for _ in range(steps)]


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_killed_worker_is_named_with_its_tasks_and_the_env_closed(make):
    env = make()
    workers = pids(env)
    run(env, 3)
    os.kill(workers[1], signal.SIGKILL)
    message = (
        f"worker {workers[1]} was killed by SIGKILL.* it stepped drawer-close-v3; .* done: drawer-close-v3 3"
    )
    with pytest.raises(WorkerDied, match=message):
        run(env, 1)
    assert not any(map(alive, workers))
    with pytest.raises(RuntimeError, match="the env is closed"):
        run(env, 1)


@pytest.mark.parametrize("when", [0, 33])
def test_a_replaced_worker_continues_as_if_it_had_not_died(make, when):
    env, undisturbed = make(restarts=1), make(workers=0)
    run(env, when)
    run(undisturbed, when)
    os.kill(pids(env)[0], signal.SIGKILL)
    expected = run(undisturbed, 25, seed=1)
    with pytest.warns(RuntimeWarning, match="SIGKILL.*reach-v3, push-v3; a new worker takes over"):
        results = run(env, 25, seed=1)
    for (a, b), (c, d) in zip(results, expected, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    os.kill(pids(env)[0], signal.SIGKILL)
    with pytest.raises(WorkerDied):
        run(env, 1)


def test_recovery_begins_anew_after_many_steps(make, monkeypatch):
    monkeypatch.setattr("mtrl.envs.recovery._STEPS", 4)
    env, undisturbed = make(restarts=1), make(workers=0)
    run(env, 10)
    run(undisturbed, 10)
    assert len(env._recovery._actions) == 2
    os.kill(pids(env)[0], signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match="takes over"):
        result = run(env, 1, seed=1)
    np.testing.assert_array_equal(result[0][0], run(undisturbed, 1, seed=1)[0][0])


@pytest.fixture(scope="module")
def shared():
    """An env that the tests which leave it whole share."""
    env = VectorEnv(EnvSettings(tasks=TASKS, horizon=20, goals_per_task=2), seed=3, workers=2)
    yield env
    env.close()


def test_signals_of_the_parents_group_leave_workers_alone(shared):
    env = shared
    env.reset(seed=3)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        os.kill(pids(env)[0], number)
    run(env, 2)


def test_nothing_outlives_a_parent_that_is_killed(tmp_path):
    """Neither with a clean parent nor with one whose forked child keeps every descriptor open."""
    code = f"""
import os, time
from mtrl.config import EnvSettings
from mtrl.envs import VectorEnv
env = VectorEnv(EnvSettings(tasks={TASKS!r}, goals_per_task=2), seed=0, workers=2)
env.reset()
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, *[worker.pid for worker in env._workers], flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child, *workers = map(int, parent.stdout.readline().split())
    try:
        assert all(map(alive, workers))
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not any(map(alive, workers)))
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_nothing_outlives_a_parent_that_is_interrupted():
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
from mtrl.config import EnvSettings
from mtrl.envs import VectorEnv
import numpy as np
env = VectorEnv(EnvSettings(tasks={TASKS!r}, goals_per_task=2), seed=0, workers=2)
env.reset()
print(*[worker.pid for worker in env._workers], flush=True)
while True:
    env.step(np.zeros((3, 4)))
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent.stdout:
        workers = list(map(int, parent.stdout.readline().split()))
        parent.send_signal(signal.SIGINT)
        try:
            assert parent.wait(timeout=20) != 0
        finally:
            parent.kill()
    assert wait_until(lambda: not any(map(alive, workers)))


def test_an_error_in_a_worker_is_shown_whole_and_closes_the_env(make):
    env = make()
    workers, memory = pids(env), env._memory
    with pytest.raises(RuntimeError, match=r"(?s)env worker failed.*Traceback.*no_such_method"):
        env._call("no_such_method")
    assert not any(map(alive, workers))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory)
    env.close()


def test_an_error_in_a_step_names_the_task(make, monkeypatch):
    env = make(workers=0)
    monkeypatch.setattr(env._group._envs[1]._env, "step", lambda action: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        run(env, 1)
    assert "drawer-close-v3" in caught.value.__notes__[0]


def test_steps_overlap_with_the_caller(shared, make):
    env, plain = shared, make(workers=0)
    env.reset(seed=3)
    actions = np.full((3, 4), 0.5)
    env.step_async(actions)
    with pytest.raises(RuntimeError, match="a step is under way"):
        env.step_async(actions)
    with pytest.raises(RuntimeError, match="a step is under way"):
        env.state_dict()
    np.testing.assert_array_equal(env.step_wait()[0], plain.step(actions)[0])
    with pytest.raises(RuntimeError, match="no step is under way"):
        env.step_wait()


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'reach-v3'"):
        build_config("debug", {"env.tasks": "reach-v2"})


def test_memory_stays_flat(shared):
    env = shared
    env.reset(seed=3)
    run(env, 100)  # two goals per task: every start was cached by now
    before = resident(env)
    run(env, 1000)
    assert resident(env) - before < 2 * 1024  # KiB; one leaked observation per env step would be 940


@pytest.mark.slow
def test_memory_stays_flat_over_100k_steps_of_50_tasks(make):
    env = make(BENCHMARKS["MT50"])
    run(env, 200)
    before = resident(env)
    run(env, 2000)
    assert resident(env) - before < 8 * 1024  # KiB


def resident(env):
    """KiB of all workers."""
    lines = (Path(f"/proc/{pid}/status").read_text().splitlines() for pid in pids(env))
    return sum(int(line.split()[1]) for status in lines for line in status if line.startswith("VmRSS"))
