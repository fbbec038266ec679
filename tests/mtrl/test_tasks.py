"""The task names written in mtrl.tasks are Meta-World's own."""

import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3, MT25_V3, MT50_V3

from mtrl.tasks import ALL_TASKS, BENCHMARKS, benchmark_name, resolve_tasks


def test_a_comma_between_tasks_is_answered_with_the_plus_sign() -> None:
    with pytest.raises(ValueError, match=r"join the names of tasks by '\+': reach-v3\+push-v3$"):
        resolve_tasks("reach-v3, push-v3")


@pytest.mark.parametrize(("name", "theirs"), [("MT10", MT10_V3), ("MT25", MT25_V3), ("MT50", MT50_V3)])
def test_benchmarks_hold_meta_worlds_tasks_in_its_order(name, theirs):
    assert BENCHMARKS[name] == tuple(theirs)


def test_all_tasks_are_meta_worlds():
    assert set(ALL_TASKS) == set(ALL_V3_ENVIRONMENTS)


@pytest.mark.parametrize(
    ("spec", "tasks"),
    [
        ("MT10", BENCHMARKS["MT10"]),
        ("reach-v3", ("reach-v3",)),
        ("reach-v3+push-v3", ("reach-v3", "push-v3")),
        (["push-v3", "reach-v3"], ("push-v3", "reach-v3")),
        ("reach-v3+reach-v3", ("reach-v3", "reach-v3")),
    ],
)
def test_tasks_are_named_by_benchmark_name_or_list(spec, tasks):
    assert resolve_tasks(spec) == tasks


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reach-v2", "did you mean 'reach-v3'"),
        ("MT11", "did you mean 'MT10'"),
        ([], "no tasks given"),
    ],
)
def test_bad_task_lists_are_refused_with_a_cure(spec, message):
    with pytest.raises(ValueError, match=message):
        resolve_tasks(spec)


def test_a_benchmark_is_known_by_its_tasks():
    assert benchmark_name(BENCHMARKS["MT25"]) == "MT25"
    assert benchmark_name(("reach-v3", "push-v3")) == "reach-v3+push-v3"
