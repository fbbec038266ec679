"""What would crash the core, or make it train on wrong numbers, is an error that names the argument."""

from __future__ import annotations

import ctypes
import inspect
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl import _core, config, ops
from mtrl.agent import Agent
from mtrl.matmul import choose_matmul
from mtrl.overrides import build_config
from mtrl.replay import Batch, Replay
from tests.mtrl.core_objects import SHAPE, in_child, outputs


def make_replay(steps: int = 8, **settings: Any) -> Replay:
    more = {name: settings.pop(name) for name in ("folder", "prefetch") if name in settings}
    replay = Replay(
        config.ReplaySettings(**{"capacity": 8, "mode": "prioritized", **settings}),
        tasks=2, seed=0, discount=0.99, observation_size=3, action_size=2, **more,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(steps):
        observation, following = rng.standard_normal((2, 2, 3))
        no = np.zeros(2, bool)
        replay.add(observation, rng.standard_normal((2, 2)), rng.standard_normal(2), no, no, following)
    return replay


class TestAgent:
    @staticmethod
    def agent(**more: Any) -> Agent:
        tasks = "reach-v3+push-v3"
        sizes = {"network.actor.width": 64, "network.critic.width": 64}
        return Agent(build_config("debug", {"env.tasks": tasks, **sizes, **more}))

    @staticmethod
    def batch(rows: int) -> Batch:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=torch.Generator().manual_seed(0))

        one, task = torch.ones(rows), torch.arange(2).repeat_interleave(rows // 2)
        return Batch(
            normal(rows, 39),
            normal(rows, 4).tanh(),
            normal(rows),
            0 * one,
            normal(rows, 39),
            task,
            one,
            task,
            one,
        )

    def test_acting_beside_an_update_changes_no_weight(self) -> None:
        alone, beside = self.agent(), self.agent()
        observation, done = np.ones((2, 39), np.float32), threading.Event()

        def act() -> None:
            while not done.is_set():
                assert np.isfinite(beside.act(observation, deterministic=True)).all()

        actors = [threading.Thread(target=act) for _ in range(2)]
        for thread in actors:
            thread.start()
        for _ in range(30):
            for agent in (alone, beside):
                agent.update(self.batch(256))
        done.set()
        for thread in actors:
            thread.join()
        assert torch.equal(alone.actor_adam.value, beside.actor_adam.value)
        assert torch.equal(alone.critic_adam.value, beside.critic_adam.value)

    def test_the_matrix_kernel_stays_while_products_are_computed(self) -> None:
        agent, batch, refused = self.agent(), self.batch(256), 0
        agent.update(batch)  # so that its room is there
        choose_matmul("blas")  # which every machine has
        names = itertools.cycle(("portable", "blas"))
        updates = threading.Thread(target=lambda: [agent.update(batch) for _ in range(40)])
        updates.start()
        try:
            while updates.is_alive() and not refused:
                try:
                    _core.choose_matmul_kernel(next(names))
                except RuntimeError as error:
                    refused += "another thread computes products now" in str(error)
        finally:
            updates.join()
            choose_matmul("own")
        assert refused

    def test_acting_on_no_rows(self) -> None:
        agent, none = self.agent(), torch.empty(0, 39)
        assert agent.fused
        action = agent.fused.act(agent.actor_adam.value, none, torch.empty(0, dtype=torch.int64), None)
        assert action.shape == (0, 4)

    def test_a_forked_child_updates_alone_and_its_agent_goes(self) -> None:
        agent, batch = self.agent(**{"run.threads": min(2, os.cpu_count() or 1)}), self.batch(256)
        agent.update(batch)

        def child() -> None:
            nonlocal agent
            agent.update(batch)  # made before: torch's own threads (tanh) hang in a forked child
            del agent

        in_child(child)

    def test_more_threads_than_cpus_are_refused(self) -> None:
        shape = {
            "critics": 1,
            "inputs": 39,
            "outputs": 8,
            "tasks": 1,
            "width": 4,
            "depth": 1,
            "start": [0] * 5,
        }
        critic = {**shape, "inputs": 43, "outputs": 1}
        settings = dict.fromkeys([*ops.SAC_SETTINGS, "beta1", "beta2"], 0.1)
        with pytest.raises(ValueError, match=r"threads is 200000; .* lower run.threads"):
            _core.SacUpdate(settings, shape, critic, 200_000)
        for name, value in (("width", 1 << 40), ("inputs", -1), ("depth", 0), ("start", [1 << 62] * 5)):
            with pytest.raises(ValueError, match=name):
                _core.SacUpdate(settings, {**shape, name: value}, critic, 1)
        with pytest.raises(TypeError, match="polyak is a str; expected a number"):
            _core.SacUpdate({**settings, "polyak": "x"}, shape, critic, 1)


class TestTensors:
    def test_freed_and_shrunk_storage(self) -> None:
        arguments = [torch.rand(2) for _ in range(6)]
        arguments[2] = torch.rand(3, 2)
        arguments[0].untyped_storage().resize_(0)
        with pytest.raises(ValueError, match="reward has no memory: its storage was freed"):
            _core.td_target(*arguments, torch.empty(2))
        arguments[0] = torch.rand(2)
        arguments[2].untyped_storage().resize_(8)
        with pytest.raises(ValueError, match="next_q takes 24 bytes, its storage has 8"):
            _core.td_target(*arguments, torch.empty(2))
        arguments[2] = torch.rand(3, 2)
        with pytest.raises(ValueError, match="reward has no memory"):
            _core.td_target(torch._efficientzerotensor(2), *arguments[1:], torch.empty(2))

    def test_a_negated_view(self) -> None:
        reward = torch._neg_view(torch.ones(2))
        with pytest.raises(ValueError, match=r"reward is a negated view; pass .resolve_neg\(\)"):
            _core.td_target(reward, *[torch.ones(2)] * 1, torch.ones(1, 2), *[torch.ones(2)] * 4)

    @pytest.mark.parametrize("kind", [np.array, torch.tensor])
    def test_a_bool_of_two(self, kind: Any) -> None:
        replay, no = make_replay(0), np.zeros(2, bool)
        flags = kind(np.array([0, 2], np.uint8)).view(bool if kind is np.array else torch.bool)
        columns = (np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2))
        with pytest.raises(ValueError, match=r"terminated\[1\] is a bool with the byte 2; expected 0 or 1"):
            replay.add(*columns, flags, no, np.zeros((2, 3)))
        with pytest.raises(ValueError, match=r"truncated\[1\] is a bool with the byte 2"):
            replay.add(*columns, no, flags, np.zeros((2, 3)))
        assert replay.size.sum() == 0

    def test_sizes_of_zero_and_absurd_workspaces(self) -> None:
        empty = torch.empty
        with pytest.raises(ValueError, match="kernel's inputs is 0; the least is 1"):
            _core.ensemble_linear_forward(
                empty(2, 0), empty(1, 0, 3), empty(1, 3), None, None, empty(1, 2, 3), empty(0)
            )
        with pytest.raises(ValueError, match="next_q's critics is 0"):
            _core.td_target(empty(2), empty(2), empty(0, 2), *[empty(2)] * 4)
        for sizes in ((-1, 1, 1, 1), (1 << 62, 1 << 62, 1 << 62, 1)):
            with pytest.raises(ValueError, match=r"critics|sizes like these"):
                _core.ensemble_linear_workspace(*sizes)

    def test_a_capsule_without_a_name_is_no_blas(self) -> None:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        with pytest.raises(TypeError, match="sgemm has the signature"):
            _core.offer_blas(new(1, None, None))


def freed(*shape: int) -> torch.Tensor:
    """A tensor whose storage was freed: torch crashes when it prints or reads it."""
    tensor = torch.rand(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def update_of(**settings: Any) -> Any:
    sizes = {"critics": 1, "inputs": 3, "outputs": 4, "tasks": 1, "width": 2, "depth": 1, "start": [0] * 5}
    critic = {**sizes, "inputs": 5, "outputs": 1}
    return _core.SacUpdate(
        {**dict.fromkeys([*ops.SAC_SETTINGS, "beta1", "beta2"], 0.1), **settings}, sizes, critic, 1
    )


class TestCalls:
    """A refused call prints no argument."""

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: _core.td_target(freed(2)), r"td_target\(\) needs terminated"),
            (lambda: _core.td_target(*[freed(2)] * 8), r"td_target\(\) takes 7 arguments; 8 are given"),
            (lambda: _core.td_target(freed(2), rewards=freed(2)), "no argument 'rewards'; it takes reward, "),
            (lambda: _core.td_target(freed(2), reward=freed(2)), "td_target.. has reward twice"),
            (lambda: _core.adam_polyak(*[freed(2)] * 5, "x", *[0] * 7), "lr is a str; expected a number"),
            (lambda: _core.adam_polyak(*[freed(2)] * 5, freed(), *[0] * 7), "lr is a Tensor; expected a"),
            (lambda: _core.segment_name(freed(), 1, 2), "first is a Tensor; expected a whole number"),
            (lambda: _core.choose_matmul_kernel(freed()), "name is a Tensor; expected a str"),
            (lambda: _core.offer_blas(freed()), "sgemm is a Tensor; expected a .*[cC]apsule"),
            (lambda: _core.matmul_kernel(freed()), r"matmul_kernel\(\) takes 0 arguments"),
            (lambda: update_of()([], freed(9), *[freed(2)] * 13), "actor is a list; expected a tuple"),
            (lambda: update_of(polyak=freed()), "polyak is a Tensor; expected a number"),
            (lambda: update_of().act(freed(2)), "act.. needs observation"),
            (lambda: _core.ReplayBuffer(freed(2)), "ReplayBuffer.. needs capacity"),
            (lambda: _core.ReplayBuffer.add(reward=freed(2)), "add.. needs self"),
            (lambda: _core.ReplayBuffer.add(freed(2), *[freed(2)] * 6), "self is a Tensor; expected a Repl"),
            (lambda: _core.ReplayOutputs(freed(2), 1, 3, 2, 0, ()), "memory is a Tensor; expected a numpy"),
            (lambda: make_replay()._core.sample(freed(2), 0), "counts is a Tensor; expected a sequence"),
            (
                lambda: make_replay()._core.sample([1, freed()], 0),
                r"counts\[1\] is a Tensor; expected a whole",
            ),
            (lambda: make_replay()._core.sample([1, 2.0], freed()), r"counts\[1\] is a float; expected a w"),
            (lambda: make_replay()._core.save("x", [(1, 2)]), r"segments\[0\] has 2 entries; expected 3"),
            (
                lambda: make_replay()._core.save("x", [(1, 2, -1)]),
                r"segments\[0\]\[2\] is a int; .* 0 to 42949",
            ),
            (lambda: make_replay()._core.save(b"x", freed()), "path is a bytes; expected a str"),
        ],
    )
    def test_a_call_that_does_not_fit(self, call: Any, message: str) -> None:
        def child() -> None:
            with pytest.raises(TypeError, match=message):
                call()

        in_child(child)

    def test_help_shows_the_arguments(self) -> None:
        assert str(inspect.signature(_core.td_target)).startswith("(reward, terminated, next_q, log_prob, ")
        assert str(inspect.signature(_core.ReplayBuffer.sample)) == "(self, counts, batch)"


class TestAliases:
    """What a call writes shares no memory with anything else that it is given."""

    @staticmethod
    def refused(one: str, other: str) -> Any:
        return pytest.raises(ValueError, match=f"{one} and {other} share memory; pass a copy of one")

    def test_an_output_that_is_an_input(self) -> None:
        one, x, y, kernel = torch.rand(2), torch.rand(1, 2, 2), torch.rand(1, 2, 2), torch.rand(1, 2, 2)
        space = torch.empty(_core.ensemble_linear_workspace(1, 2, 2, 2))
        with self.refused("x", "y"):
            _core.ensemble_linear_forward(x, kernel, torch.rand(1, 2), None, None, x, space)
        with self.refused("y", "workspace"):
            _core.ensemble_linear_forward(
                x, kernel, torch.rand(1, 2), None, None, space[:4].view(1, 2, 2), space
            )
        gradients = (x.clone(), kernel.clone(), torch.rand(1, 2))
        with self.refused("kernel", "dkernel"):
            _core.ensemble_linear_backward(
                x,
                kernel,
                None,
                None,
                y,
                y.clone(),
                y.clone(),
                gradients[0],
                kernel,
                gradients[2],
                None,
                space,
            )
        with self.refused("next_q", "target"):
            _core.td_target(one, one, x[0], one, one, one, x[0, 1])

    def test_dz_may_be_dy_and_only_as_a_whole(self) -> None:
        x, y, dy = torch.rand(1, 3, 2), torch.rand(1, 3, 2), torch.rand(9)
        kernel, space = torch.rand(1, 2, 2), torch.empty(_core.ensemble_linear_workspace(1, 3, 2, 2))
        apart, together, none = dy[:6].clone().view(1, 3, 2), dy[:6].view(1, 3, 2), (None,) * 3
        expected, got = torch.empty(1, 3, 2), torch.empty(1, 3, 2)
        _core.ensemble_linear_backward(
            x, kernel, None, None, y, apart, torch.empty_like(y), expected, *none, space
        )
        with self.refused("dy", "dz"):
            _core.ensemble_linear_backward(
                x, kernel, None, None, y, together, dy[2:8].view(1, 3, 2), got, *none, space
            )
        _core.ensemble_linear_backward(x, kernel, None, None, y, together, together, got, *none, space)
        assert torch.equal(got, expected)

    def test_vectors_of_an_update(self) -> None:
        a, b, c, d = torch.rand(4, 5)
        numbers = (1e-3, 0.9, 0.999, 1e-5, 0.0, 1.0, 0.1, 1)
        for vectors, names in (
            ((a, b, b, c, None), ("gradient", "mean")),
            ((a, b, c, d, a), ("value", "target")),
        ):
            with self.refused(*names):
                _core.adam_polyak(*vectors, *numbers)
        actor, critic, temperature = ((*torch.rand(4, n), 1) for n in (40, 40, 1))
        rows = [torch.rand(2, 3), torch.rand(2, 2), torch.rand(2), torch.rand(2), torch.rand(2, 3)]
        rows += [torch.zeros(2, dtype=torch.int64), *torch.rand(2, 2), *torch.rand(2, 2, 2)]
        with self.refused("critic", "target"):
            update_of()(actor, critic, critic[0], temperature, *rows, torch.rand(2))
        with self.refused("reward", "priority"):
            update_of()(actor, critic, torch.rand(40), temperature, *rows, rows[2])
        with self.refused("actor's mean", "critic's square"):
            shared = (*critic[:3], actor[2], 1)
            update_of()(actor, shared, torch.rand(40), temperature, *rows, torch.rand(2))
        with self.refused("noise", "action"):
            update_of().act(actor[0], rows[0], rows[5], rows[1], rows[1])

    def test_columns_of_a_batch(self) -> None:
        memory = np.zeros(999, np.float32)
        block = torch.from_numpy(memory)
        flat = [block[:1]] * 9
        flat[0], flat[1], flat[4] = block[:3].view(1, 3), block[2:4].view(1, 2), block[8:11].view(1, 3)
        flat[5] = flat[7] = block[:2].view(torch.int64)
        with self.refused("observation", "action"):
            _core.ReplayOutputs(memory, 1, 3, 2, 0, tuple(flat))


class TestObjects:
    @pytest.mark.parametrize("name", ["ReplayBuffer", "ReplayOutputs", "SacUpdate"])
    def test_without_init(self, name: str) -> None:
        kind = getattr(_core, name)
        hollow = kind.__new__(kind)
        calls = {
            "ReplayBuffer": ("size",),
            "ReplayOutputs": ("is_intact",),
            "SacUpdate": ("act", *[None] * 5),
        }
        method, *arguments = calls[name]
        with pytest.raises(TypeError, match=f"self is a {name} whose __init__ never ran"):
            getattr(hollow, method)(*arguments)

    def test_a_batch_without_init(self) -> None:
        with pytest.raises(TypeError, match="batch is a ReplayOutputs whose __init__ never ran"):
            _core.ReplayBuffer(**SHAPE).sample([1, 1], _core.ReplayOutputs.__new__(_core.ReplayOutputs))
        with pytest.raises(TypeError, match="batch is a int; expected a ReplayOutputs"):
            _core.ReplayBuffer(**SHAPE).prefetch([1, 1], 3, True)


class TestReplay:
    def test_a_batch_cannot_be_resized(self) -> None:
        batch = make_replay().sample(4)
        with pytest.raises(RuntimeError, match="not resizable"):
            batch.observation.resize_(1 << 20)
        with pytest.raises(RuntimeError, match="not resizable"):
            batch.observation.untyped_storage().resize_(0)

    @pytest.mark.parametrize(
        "change",
        [
            lambda batch: batch.observation.set_(torch.zeros(8, 3)),
            lambda batch: batch.observation.resize_(1, 3),
            lambda batch: batch.observation.t_(),
            lambda batch: setattr(batch.reward, "data", torch.zeros(8)),
            lambda batch: batch.reward.share_memory_(),
        ],
    )
    @pytest.mark.parametrize("lag", [0, 1])
    def test_a_batch_that_was_changed_is_not_used_again(self, change: Any, lag: int) -> None:
        replay, twin = make_replay(lag=lag), make_replay(lag=lag)
        for _ in range(3):
            batch = replay.sample(4)
            expected = [column.clone() for column in twin.sample(4)]
            assert all(torch.equal(*both) for both in zip(batch, expected, strict=True))
            change(batch)
            del batch

    @pytest.mark.parametrize(
        ("sizes", "counts", "message"),
        [
            ({"observation": 300}, [2, 2], r"batch has observation, action and next sizes 300, 2, 0; this"),
            ({"action": 1}, [2, 2], r"sizes 3, 1, 0; this replay has 3, 2, 0"),
            ({"next": 3}, [2, 2], r"sizes 3, 2, 3; this replay has 3, 2, 0"),
            ({}, [2, 3], "counts do not add up to the batch's 4 rows"),
            ({}, [-1, 5], "counts do not add up"),
            ({}, [1 << 62, 1 << 62], "counts do not add up"),
            ({}, [4], "counts has 1 entries; there are 2 tasks"),
        ],
    )
    def test_batches_of_other_sizes(self, sizes: Any, counts: list[int], message: str) -> None:
        replay = make_replay()._core
        for draw in (replay.sample, lambda counts, batch: replay.prefetch(counts, batch, True)):
            with pytest.raises(ValueError, match=message):
                draw(counts, outputs(4, **sizes))

    def test_outputs_lie_in_their_memory(self) -> None:
        columns = (torch.empty(1, 3), torch.empty(1, 2), *[torch.empty(1)] * 2, torch.empty(1, 3))
        names = (torch.empty(1, dtype=torch.int64), torch.empty(1))
        with pytest.raises(ValueError, match="observation does not lie in memory"):
            _core.ReplayOutputs(np.zeros(999, np.uint8), 1, 3, 2, 0, (*columns, *names, *names))
        for name in ("rows", "observation", "action", "next"):
            sizes = {"rows": 1, "observation": 3, "action": 2, "next": 0, name: -1}
            with pytest.raises(ValueError, match=f"{name} is -1"):
                _core.ReplayOutputs(np.zeros(999, np.uint8), **sizes, tensors=(*columns, *names, *names))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("tasks", 1 << 40),
            ("capacity", 1 << 60),
            ("observation", 1 << 62),
            ("action", 1 << 62),
            ("frame", 1 << 62),
            ("frame", -1),
            ("n_step", 1 << 62),
            ("n_step", 0),
            ("alpha", float("nan")),
        ],
    )
    def test_absurd_sizes(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=name):
            _core.ReplayBuffer(**{**SHAPE, name: value})

    def test_an_alpha_too_far_from_the_one_before(self) -> None:
        replay = make_replay()._core
        replay.set_alpha(1e-300)
        with pytest.raises(ValueError, match=r"alpha is 1e\+300, too large to follow 1e-300"):
            replay.set_alpha(1e300)
        assert replay.check() == ""

    def test_more_than_there_is_memory(self) -> None:
        with pytest.raises(ValueError, match="the rows of all tasks take more than 128 TiB"):
            _core.ReplayBuffer(**{**SHAPE, "capacity": 1 << 28, "observation": 1 << 20})
        with pytest.raises(RuntimeError, match=r"cannot map \d+ bytes for the replay.*lower replay.capacity"):
            _core.ReplayBuffer(**{**SHAPE, "capacity": 1 << 28, "tasks": 1000})

    def test_paths_with_a_zero_byte(self) -> None:
        replay = _core.ReplayBuffer(**SHAPE)
        for act in (lambda: replay.save("a\0b", []), lambda: replay.load("a\0b", "")):
            with pytest.raises(ValueError, match="path has a zero byte in it"):
                act()

    def test_segments_that_leave_transitions_out_are_not_saved(self, tmp_path: Path) -> None:
        replay = make_replay()._core
        for segments in ([(3, 5, 0)], [(0, 8, 0)], [(0, 2, 0), (3, 5, 0)], [(0, -5, 0)]):
            with pytest.raises(ValueError, match=r"segment .* is not one of a run of settled transitions"):
                replay.save(str(tmp_path / "replay"), segments)

    @pytest.mark.parametrize("prefetch", [True, False])
    def test_a_forked_child_goes_on_and_its_replay_goes(self, prefetch: bool) -> None:
        replay, twin = make_replay(lag=1, prefetch=prefetch), make_replay(lag=1, prefetch=False)
        replay.sample(4)
        replay.size.sum()  # waits until no thread is at work
        expected = [twin.sample(4) for _ in range(3)][-1]

        def child() -> None:
            nonlocal replay
            replay.sample(4)
            assert torch.equal(replay.sample(4).id, expected.id)
            del replay

        in_child(child)

    def test_rows_in_a_file_are_not_shared_with_a_forked_child(self, tmp_path: Path) -> None:
        replay = make_replay(folder=tmp_path)

        def child() -> None:
            with pytest.raises(RuntimeError, match="rows lie in a file that this process shares"):
                replay.sample(1)

        in_child(child)

    def test_without_a_thread_to_be_had_the_next_call_draws(self) -> None:
        """The address space is as full as it is: no stack for another thread."""
        program = """
            import resource
            import test_core_misuse as here

            twin, replay = (here.make_replay(lag=1, prefetch=False) for _ in range(2))
            replay._prefetch = True
            expected = [column.clone() for _ in range(3) for column in twin.sample(4)]
            sizes = dict(line.split(":") for line in open("/proc/self/status"))
            full = int(sizes["VmSize"].split()[0]) * 1024 + (1 << 21)
            resource.setrlimit(resource.RLIMIT_AS, (full, resource.RLIM_INFINITY))
            got = [column.clone() for _ in range(3) for column in replay.sample(4)]
            assert all(here.torch.equal(*both) for both in zip(got, expected, strict=True))
            tasks = len(list(here.Path("/proc/self/task").iterdir()))
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            replay.sample(4)
            assert len(list(here.Path("/proc/self/task").iterdir())) == tasks + 1
        """
        here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=here)
