"""The replay against its slow twin, by random operations and by cases worked by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mtrl import config
from mtrl.replay_place import ShippedReplay
from tests.mtrl.reference_replay import SHARED, ReferenceReplay, uniform_offsets
from tests.mtrl.replays import MODES, SIZES, Feed, equal, fill, make


class StackedFeed(Feed):
    """Observations [frame, previous frame, goal] of 3 + 3 + 2 numbers; a reset's previous frame is any."""

    def __init__(self, tasks, seed=0):
        super().__init__(tasks, observation_size=8, seed=seed)

    def follow(self, observation):
        following = self.observe()
        following[:, 3:] = np.concatenate([observation[:, :3], observation[:, 6:]], 1)
        return following


def check_tuples(batch, reference):
    """Every sampled tuple is one that was added, bit for bit, and is still held."""
    for row, id in enumerate(batch.id.tolist()):
        task = int(batch.task[row])
        transition = reference.transitions[task][reference.offset(task, id)]
        for name in ("observation", "action", "reward", "next_observation"):
            sampled, added = getattr(batch, name)[row].numpy(), getattr(transition, name)
            assert np.array_equal(sampled.view(np.uint32), added.view(np.uint32)), name
        assert batch.terminated[row] == transition.terminated


class Operations(RuleBasedStateMachine):
    """Adds, samples, updates and reloads in any order; the twin is asked after each."""

    @initialize(
        mode=st.sampled_from(MODES),
        capacity=st.integers(2, 40),
        tasks=st.integers(1, 3),
        rows=st.sampled_from(["full", "frame_stack"]),
    )
    def start(self, mode, capacity, tasks, rows):
        self.arguments = {"mode": mode, "capacity": capacity, "tasks": tasks, "seed": 5, "rows": rows}
        self.feed, self.ids = Feed(tasks), np.zeros(0, np.int64)
        if rows == "frame_stack":
            self.feed = StackedFeed(tasks)
            self.arguments |= {"observation_size": 8, "frame_size": 3}
        self.replay, self.twin = make(**self.arguments), ReferenceReplay(capacity, tasks, 0.6)

    @rule(
        steps=st.integers(1, 30),
        terminated=st.floats(0, 1),
        truncated=st.floats(0, 0.5),
        broken=st.booleans(),
    )
    def add(self, steps, terminated, truncated, broken):
        rng = self.feed.rng
        for _ in range(steps):
            ends = [rng.random(self.feed.tasks) < share for share in (terminated, truncated)]
            columns = self.feed.step(*ends, broken=broken and rng.random() < 0.3)
            self.replay.add(*columns)
            self.twin.add(*columns)

    @precondition(lambda self: self.twin.added)
    @rule(per_task=st.integers(1, 9))
    def sample(self, per_task):
        prioritized = self.arguments["mode"].startswith("prioritized")
        if prioritized and not all(map(sum, self.twin.weights)):
            with pytest.raises(ValueError, match=r"all priorities of task \d are zero"):
                self.replay.sample(per_task)
            return
        batch = self.replay.sample(per_task)
        check_tuples(batch, self.twin)
        assert batch.task.tolist() == sorted(list(range(self.feed.tasks)) * per_task)
        ids = batch.id.numpy()
        if prioritized:
            weights = self.twin.importance_weights(ids, 0.4)
            # float32 at the end, and the twin's sums are in another order
            np.testing.assert_allclose(batch.weight.numpy(), weights, rtol=1e-6)
        else:
            assert batch.weight.eq(1).all()
        self.ids = np.concatenate([self.ids, ids])[-200:]

    @precondition(lambda self: len(self.ids) and self.arguments["mode"].startswith("prioritized"))
    @rule(n=st.integers(1, 50), zeros=st.floats(0, 1), scale=st.sampled_from([1e-30, 1.0, 1e20]))
    def update(self, n, zeros, scale):
        rng = self.feed.rng
        ids = rng.choice(self.ids, n)  # with repetitions, some long overwritten
        priorities = rng.exponential(size=n) * scale * (rng.random(n) >= zeros)
        assert self.replay.update_priorities(ids, priorities) == self.twin.update_priorities(ids, priorities)

    @precondition(lambda self: len(self.ids) and self.arguments["mode"].startswith("prioritized"))
    @rule(bad=st.sampled_from([np.nan, np.inf, -np.inf, -1.0]), place=st.integers(0, 9))
    def bad_priority(self, bad, place):
        priorities = np.ones(10)
        priorities[place] = bad
        with pytest.raises(ValueError, match=f"row {place}: priority is {bad:g}"):
            self.replay.update_priorities(np.resize(self.ids, 10), priorities)

    @rule()
    def reload(self):
        state = self.replay.state_dict()
        again = make(**{**self.arguments, "seed": 99})
        again.load_state_dict(state)
        assert np.array_equal(again.state_dict()["replay"], state["replay"])
        self.replay = again

    @invariant()
    def valid(self):
        if hasattr(self, "replay"):
            self.replay.check_valid()
            assert self.replay.size.tolist() == [len(held) for held in self.twin.transitions]


Operations.TestCase.settings = settings(
    max_examples=120, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOperations = Operations.TestCase


@pytest.mark.parametrize("mode", ["uniform", "uniform_shared"])
@pytest.mark.parametrize("added", [1, 5, 8, 9, 30])
def test_uniform_draws_are_the_twins(mode, added):
    replay = fill(make(mode, seed=(7 << 32) + 3), added)
    size = min(added, 8)
    for draw in range(3):
        ids = replay.sample(5).id.numpy().reshape(2, 5)
        for task in range(2):
            source = SHARED if mode == "uniform_shared" else task
            offsets = uniform_offsets((7 << 32) + 3, draw, source, size, 5)
            assert (ids[task] & (1 << 48) - 1).tolist() == [added - size + offset for offset in offsets]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(2, 20), st.floats(0, 1), st.integers(0, 2**31))
def test_uniform_shared_equals_a_numpy_transcription(steps, capacity, ends, seed):
    """The paper's buffer: arrays [time, task, ...] written round and round, one list of times for all tasks."""
    tasks, feed = 3, Feed(3, seed=seed)
    replay = make("uniform_shared", capacity=capacity, tasks=tasks, seed=seed)
    arrays = [np.zeros((capacity, tasks, n), np.float32) for n in (3, 2, 1, 1, 3)]
    for time in range(steps):
        o, a, r, d, t, n = feed.step(*(feed.rng.random((2, tasks)) < ends))
        replay.add(o, a, r, d, t, n)
        for array, column in zip(arrays, (o, a, r[:, None], d[:, None], n), strict=True):
            array[time % capacity] = column
    batch = replay.sample(16)
    times = batch.id.numpy() & (1 << 48) - 1
    assert (times.reshape(tasks, 16) == times[:16]).all()
    picked = [array[times[:16] % capacity].swapaxes(0, 1).reshape(tasks * 16, -1) for array in arrays]
    for column, array in zip(batch[:5], picked, strict=True):
        assert np.array_equal(column.numpy().reshape(array.shape), array)


@pytest.mark.parametrize("mode", MODES)
def test_unwritten_rows_are_never_drawn(mode):
    replay = fill(make(mode, capacity=100_000, tasks=3), 2)
    for _ in range(50):
        assert ((replay.sample(64).id & (1 << 48) - 1) < 2).all()


@pytest.mark.parametrize("mode", MODES)
def test_capacity_two_holds_the_newest_two_at_episodes_of_length_one(mode):
    replay, twin, feed = make(mode, capacity=2), ReferenceReplay(2, 2, 0.6), Feed(2)
    for _ in range(7):
        columns = feed.step(terminated=True)
        replay.add(*columns)
        twin.add(*columns)
        check_tuples(replay.sample(20), twin)
    assert replay.size.tolist() == [2, 2]


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_replay_continues_bit_for_bit(mode, tmp_path):
    one, feed = make(mode, capacity=50), Feed(2)
    fill(one, 70, feed)
    one.sample(4)
    one.save(tmp_path / "replay.bin")
    other = make(mode, capacity=50, seed=123)
    other.load(tmp_path / "replay.bin")
    for _ in range(10):
        columns = feed.step(truncated=feed.rng.random(2) < 0.2)
        one.add(*columns)
        other.add(*columns)
        batch, again = one.sample(6), other.sample(6)
        assert equal(batch, again)
        if mode.startswith("prioritized"):
            one.update_priorities(batch.id, batch.reward.abs())
            other.update_priorities(again.id, again.reward.abs())


def test_a_state_holds_only_what_was_added():
    """Ten transitions of two tasks, of a million places; peers' pickles take every place."""
    assert len(fill(make(capacity=1_000_000), 10).state_dict()["replay"]) < 5_000


STACKED = {"rows": "frame_stack", "observation_size": 8, "frame_size": 3}


def test_stacked_rows_of_meta_world_take_96_bytes():
    """Of memory and of a file: 10,000 transitions in 20 episodes with their kept observations and checksums."""
    replay, rng = (
        make(capacity=10_000, rows="frame_stack", tasks=1, observation_size=39, action_size=4),
        Feed(1).rng,
    )
    frames, goal = rng.standard_normal((10_002, 1, 18)), rng.standard_normal((1, 3))
    for time in range(1, 10_001):
        observation, following = (
            np.concatenate([frames[t], frames[t - 1], goal], 1) for t in (time, time + 1)
        )
        ended = np.array([time % 500 == 0])
        replay.add(observation, np.zeros((1, 4)), np.ones(1), ended & False, ended, following)
    assert len(replay.state_dict()["replay"]) / 10_000 < 96.5
    batch = replay.sample(1000)
    times = (batch.id.numpy() & (1 << 48) - 1) + 1
    expected = np.concatenate([frames[times + 1], frames[times], np.broadcast_to(goal, (1000, 1, 3))], 2)[
        :, 0
    ]
    assert np.array_equal(batch.next_observation.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("place", [3, 5, 6, 7])
def test_what_stacked_rows_cannot_hold_is_noticed(place):
    """Every number of the previous frame and the goal is compared; the task is named and nothing is added."""
    replay, feed = make(**STACKED), StackedFeed(2)
    fill(replay, 3, feed)
    before = replay.state_dict()["replay"]
    columns = feed.step()
    columns[5][1, place] += 1e-3
    with pytest.raises(ValueError, match=r"task 1: rows of frame_stack need .* use replay.rows=full"):
        replay.add(*columns)
    assert np.array_equal(replay.state_dict()["replay"], before)


def test_compact_batches_are_of_stacked_rows():
    with pytest.raises(ValueError, match=r"compact batches are of stacked rows; replay.rows is full"):
        make(compact=True)


def test_a_file_of_other_rows_is_refused(tmp_path):
    fill(make(**STACKED), 3, StackedFeed(2)).save(tmp_path / "replay.bin")
    with pytest.raises(ValueError, match="frame size = 3, this replay has 0"):
        make(observation_size=8).load(tmp_path / "replay.bin")


def test_rows_in_a_file_are_as_good(tmp_path):
    one, other = fill(make(), 12), fill(make(folder=tmp_path), 12)
    assert equal(one.sample(20), other.sample(20))
    assert not list(tmp_path.iterdir())  # the file has no name: nothing to clean up, nothing left by a crash
    with pytest.raises(RuntimeError, match=r"storage in the folder /no/such: No such file"):
        make(folder="/no/such")
    with pytest.raises(RuntimeError, match=r"cannot take \d+ bytes of replay storage in the folder"):
        make(folder=tmp_path, capacity=1 << 28, tasks=1000)


def test_a_batch_that_is_held_is_not_overwritten():
    replay = fill(make(), 8)
    held = [replay.sample(16) for _ in range(20)]
    copies = [[column.clone() for column in batch] for batch in held]
    only_a_column = replay.sample(16).observation
    copy = only_a_column.clone()
    for _ in range(20):
        replay.sample(16)
    assert all(equal(batch, copy) for batch, copy in zip(held, copies, strict=True))
    assert torch.equal(only_a_column, copy)


def test_a_batch_that_is_dropped_is_used_again():
    replay = fill(make(), 8)
    address = replay.sample(16).observation.data_ptr()
    assert replay.sample(16).observation.data_ptr() == address


@pytest.mark.parametrize("kind", ["float32", "float64", "torch"])
def test_any_precision_and_library_is_taken(kind):
    replay, twin, feed = make(), ReferenceReplay(8, 2, 0.6), Feed(2)
    columns = feed.step()
    if kind == "float32":
        columns = tuple(c.astype(np.float32) if c.dtype == np.float64 else c for c in columns)
    twin.add(*columns)
    replay.add(*(map(torch.from_numpy, columns) if kind == "torch" else columns))
    check_tuples(replay.sample(3), twin)


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        (0, np.zeros((2, 4)), ValueError, r"observation has shape \[2, 4\]; expected \[2, 3\]"),
        (0, np.zeros((2, 3), np.float16), TypeError, "observation has dtype float16"),
        (1, np.zeros((2, 2), np.int64), TypeError, "action has dtype int64; expected float64"),
        (1, np.zeros((2, 2)).T[:, ::-1], ValueError, "action is not contiguous"),
        (2, [0.0, 0.0], TypeError, "reward is a list"),
        (3, np.zeros(2), TypeError, "terminated has dtype float64; expected bool"),
        (4, np.zeros((2, 1), bool), ValueError, "truncated has shape"),
        (5, torch.zeros(2, 3, device="meta"), ValueError, "next_observation has no memory"),
    ],
)
def test_a_wrong_column_is_named_and_nothing_is_added(column, value, error, message):
    replay, feed = fill(make(), 3), Feed(2)
    before = replay.state_dict()["replay"]
    columns = list(feed.step())
    columns[column] = value
    with pytest.raises(error, match=message):
        replay.add(*columns)
    assert np.array_equal(replay.state_dict()["replay"], before)


def test_sampling_nothing_is_refused():
    for mode in MODES:
        with pytest.raises(ValueError, match="task 0 has no transitions to sample"):
            make(mode).sample(1)
    for counts in (0, -1, [1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="per_task"):
            fill(make(), 2).sample(counts)


@pytest.mark.parametrize("mode", ["uniform", "prioritized"])
def test_counts_per_task_are_exact_and_ordered(mode):
    replay = fill(make(mode, tasks=4), 5)
    assert replay.sample([3, 0, 5, 1]).task.tolist() == [0] * 3 + [2] * 5 + [3]


def test_an_id_that_never_was_is_refused():
    replay = fill(make("prioritized"), 3)
    for id in (-1, 3, (1 << 48) + 3, 2 << 48):
        with pytest.raises(ValueError, match=f"row 1: no transition ever had id {id}"):
            replay.update_priorities(np.array([0, id]), np.ones(2))
    with pytest.raises(ValueError, match="only mode prioritized"):
        fill(make(), 3).update_priorities(np.array([0]), np.ones(1))


def test_a_priority_too_large_for_its_power_is_refused():
    replay = fill(make("prioritized", alpha=2.0), 3)
    with pytest.raises(ValueError, match=r"row 0: priority 1e\+30 to the power alpha = 2 is too large"):
        replay.update_priorities(np.array([0]), np.array([1e30]))


class TestFiles:
    @pytest.fixture
    def saved(self, tmp_path):
        replay, feed = make("prioritized", capacity=30, tasks=2), Feed(2)
        for _ in range(40):
            replay.add(*feed.step(terminated=feed.rng.random(2) < 0.2))
        replay.save(tmp_path / "replay.bin")
        return replay, tmp_path / "replay.bin"

    def test_every_flipped_bit_is_noticed_and_nothing_is_loaded(self, saved):
        _, path = saved
        good = path.read_bytes()
        target = fill(make("prioritized", capacity=30), 3)
        before = target.state_dict()["replay"]
        rng = np.random.default_rng(0)
        for place in rng.choice(len(good), 300, replace=False):
            bad = bytearray(good)
            bad[place] ^= 1 << rng.integers(8)
            path.write_bytes(bad)
            with pytest.raises(ValueError, match="replay checkpoint"):
                target.load(path)
            assert np.array_equal(target.state_dict()["replay"], before)

    def test_a_file_cut_short_is_noticed(self, saved):
        replay, path = saved
        good = path.read_bytes()
        for length in (0, 7, 100, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:length])
            with pytest.raises(ValueError, match="damaged: it ends inside"):
                replay.load(path)
        path.write_bytes(good + b"x")
        with pytest.raises(ValueError, match="more after its end"):
            replay.load(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"capacity": 31}, "capacity = 30, this replay has 31"),
            ({"tasks": 3}, "tasks = 2, this replay has 3"),
            ({"observation_size": 4}, "observation size = 3, this replay has 4"),
            ({"mode": "uniform"}, "prioritized = 1, this replay has 0"),
            ({"alpha": 0.5}, "alpha = 0.6"),
        ],
    )
    def test_a_file_of_another_replay_is_refused(self, saved, change, message):
        other = make(**{"mode": "prioritized", "capacity": 30, "tasks": 2, **change})
        with pytest.raises(ValueError, match=message):
            other.load(saved[1])
        assert other.size.sum() == 0

    @pytest.mark.parametrize("rows", ["full", "frame_stack"])
    @pytest.mark.parametrize("capacity", [2, 50])
    def test_segments_hold_each_row_once(self, tmp_path, rows, capacity):
        """Saves after random numbers of adds, the ring running round; each is loaded, some are gone on from."""
        more, feed = {"capacity": capacity, "mode": "prioritized", "rows": rows}, Feed(2)
        if rows == "frame_stack":
            more, feed = more | STACKED, StackedFeed(2)
        replay, rng = make(**more), np.random.default_rng(0)
        for _ in range(40):
            for _ in range(rng.integers(0, 20)):
                replay.add(*feed.step(*(rng.random((2, 2)) < 0.1), broken=rng.random() < 0.1))
            used = replay.save(tmp_path / "replay.bin", tmp_path)
            ends = [(segment.first, segment.last) for segment in used]
            assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))
            other = make(**more)
            other.load(tmp_path / "replay.bin", tmp_path)
            other.check_valid()
            assert np.array_equal(other.state_dict()["replay"], replay.state_dict()["replay"])
            if rng.random() < 0.3:
                replay = other
        assert len(used) > (capacity == 50)

    def test_there_are_few_segments_however_often_it_is_saved(self, tmp_path):
        replay, feed = make(capacity=3200), Feed(2)
        for _ in range(200):
            fill(replay, 40, feed)
            used = replay.save(tmp_path / "replay.bin", tmp_path)
        assert 25 < len(used) <= 33
        held = sum(segment.last - segment.first for segment in used)
        assert 3200 - 100 <= held <= 3200 + 120

    @pytest.fixture
    def split(self, tmp_path):
        replay, feed = make(capacity=30), Feed(2)
        for steps in (12, 12, 12):
            fill(replay, steps, feed)
            used = replay.save(tmp_path / "replay.bin", tmp_path)
        assert len(used) == 3
        return tmp_path / "replay.bin", used

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_every_flipped_bit_of_a_segment_is_noticed_and_nothing_is_loaded(self, split, which):
        path, used = split
        rows = path.parent / used[which].name
        good, target = rows.read_bytes(), fill(make(capacity=30), 3)
        before = target.state_dict()["replay"]
        for place in range(0, len(good), 31):
            bad = bytearray(good)
            bad[place] ^= 1
            rows.write_bytes(bad)
            with pytest.raises(ValueError, match=f"segment {used[which].first} does not match its checksum"):
                target.load(path, path.parent)
        rows.unlink()
        with pytest.raises(RuntimeError, match=f"cannot open .*{used[which].name}"):
            target.load(path, path.parent)
        assert np.array_equal(target.state_dict()["replay"], before)

    def test_a_state_of_bytes_cannot_name_segments(self, split):
        state = np.fromfile(split[0], np.uint8)
        with pytest.raises(ValueError, match="names files of rows; load it from where they are"):
            make(capacity=30).load_state_dict({"replay": state})

    def test_a_missing_folder_is_named(self, saved):
        for act in (saved[0].save, saved[0].load):
            with pytest.raises(RuntimeError, match=r"no/such/file.*No such file"):
                act("no/such/file")

    def test_saving_leaves_no_other_file(self, saved):
        assert [path.name for path in saved[1].parent.iterdir()] == ["replay.bin"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_pinned_for_a_gpu_alone(device, monkeypatch):
    """Pinning opens a CUDA context, which takes hundreds of MB of the GPU."""
    asked, empty = [], torch.empty
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch,
        "empty",
        lambda *size, pin_memory=False, **more: asked.append(pin_memory) or empty(*size, **more),
    )
    replay = make()
    if device == "cuda":
        more = {"device": torch.device("cuda"), "tasks": 2, "seed": 0, "discount": 0.99}
        replay = ShippedReplay(config.ReplaySettings(capacity=8, mode="uniform"), **SIZES, **more)
        monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
        monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    replay.add(*Feed(2).step())
    replay.sample(2)
    assert any(asked) == (device == "cuda")
